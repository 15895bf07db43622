"""Proofs of a batch of images, kept as the engine finds them, in the form that is checked."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ...bounds.box import Ball
from ...bounds.radius import largest, map_hash
from ...checker import FORMAT, INTERVAL, SLOPES, Refuted, most_broken, open_classes
from ...formats.atomic import write_atomically
from .contexts import Columns, Context, Contexts, image_key, lines_of
from .proof_arrays import Array, ProofArrays
from .relaxation import Images


class Proofs:
    """Refuted tuples of a batch of images: which (image, class) pairs do not break together.

    Of images that are equal, in pixels and label, the first stands for all.

    Args:
        x: (N, ...) the images.
        y: (N,) their labels.
    """

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y = x.detach().cpu().numpy(), y.cpu().numpy()
        labels = self.labels = self.y.tolist()
        self.classes = 0
        self.refuted: set[Refuted] = set()
        numbers: dict[bytes, int] = {}
        self._same = [
            numbers.setdefault(image_key(p, label), i)
            for i, (p, label) in enumerate(zip(self.x, labels, strict=True))
        ]
        self._arrays = ProofArrays()
        self._contexts = Contexts(numbers, self._arrays)
        self._leaves = 0

    def begin(self, images: Images, proved: Tensor) -> None:
        """Keep what intervals prove: the margins ``proved`` (n, K-1)."""
        self.classes = proved.shape[1] + 1
        self._contexts.begin(images)
        image, row = proved.nonzero(as_tuple=True)
        self.add(images, image.unsqueeze(1), row.unsqueeze(1), kind=INTERVAL)

    def add(
        self,
        images: Images,
        members: Tensor,
        rows: Tensor,
        *,
        kind: int = SLOPES,
        parameter: Tensor | None = None,
        signs: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        """Keep the leaves of tuples that are proved with them.

        Args:
            images: What the bounds are of.
            members: (D, s) numbers of images.
            rows: (D, s) a margin of each.
            kind: How the margins are bounded.
            parameter: (D·s, M) α of unstable neurons and β of split ones.
            signs: (D·s, M) of the split neurons; None for no splits.
            weights: (D, s) at least 0; equal ones if None.
        """
        if not len(members):
            return
        (count, size), flat = members.shape, members.flatten().tolist()
        contexts = self._contexts.of(images, {*flat})
        image = np.array([contexts[i].image for i in flat])
        row = rows.flatten().cpu().numpy()
        wrong = row + (row >= self.y[image])
        new = self._new(np.stack([image, wrong], 1).reshape(count, size, 2))
        which = np.repeat(new, size).nonzero()[0]
        if not len(which):
            return
        w = np.ones((count, size)) if weights is None else weights.double().cpu().numpy()
        first, more = self._arrays.entries, int(new.sum())
        self._arrays.keep(
            entry_leaf=self._leaves + np.repeat(np.arange(more), size),
            entry_context=np.array([contexts[flat[e]].number for e in which]),
            entry_class=wrong[which],
            entry_kind=np.full(len(which), kind),
            entry_weight=w.flatten()[which],
        )
        self._leaves += more
        if parameter is None:
            self._arrays.keep(slope_end=np.zeros(len(which), np.int64))
            return
        lines = parameter[which], None if signs is None else signs[which]
        self._keep_lines(images, members.flatten()[which], contexts, first, *lines)

    def _new(self, pairs: Array) -> Array:
        """Take tuples of (image, class), (D, s, 2), as refuted; return which were not, (D,).

        Tuples in which an image has two classes are left out: it breaks in one alone.
        """
        keys = [frozenset((i, c) for i, c in one) for one in pairs.tolist()]
        apart = [len({i for i, _ in key}) == len(key) for key in keys]
        new = np.array([a and key not in self.refuted for a, key in zip(apart, keys, strict=True)])
        self.refuted.update(key for a, key in zip(apart, keys, strict=True) if a)
        return new

    def _keep_lines(
        self,
        images: Images,
        member: Tensor,
        contexts: dict[int, Context],
        first: int,
        parameter: Tensor,
        signs: Tensor | None,
    ) -> None:
        """Keep the lines of entries from number ``first`` on, of the images ``member``."""
        self._arrays.keep(line_entry=lines_of(images.relaxation, member, parameter))
        columns = {i: Columns.of(images, i) for i in contexts}
        values = parameter.detach().cpu().numpy()
        split = np.zeros(values.shape) if signs is None else signs.cpu().numpy()
        for k, i in enumerate(member.tolist()):
            self._keep_slopes(contexts[i], first + k, columns[i], values[k], split[k])

    def _keep_slopes(
        self, context: Context, entry: int, columns: Columns, values: Array, split: Array
    ) -> None:
        mine, sign = values[columns.mine], split[columns.mine]
        slopes = context.crown.copy()
        slopes[np.searchsorted(context.free, columns.neuron)] = mine.clip(0, 1)
        at = sign.nonzero()[0]
        self._arrays.keep(
            slope=slopes,
            slope_end=np.array([len(slopes)]),
            split_entry=np.full(len(at), entry),
            split_neuron=columns.neuron[at],
            split_sign=sign[at],
            split_multiplier=mine[at],
        )

    def safe(self, members: Sequence[int]) -> int:
        """Return how many images of a group survive, by what is refuted."""
        images = [self._same[i] for i in members]
        return len(images) - most_broken(images, self.labels, self.classes, self.refuted)

    def certified(self, image: int) -> bool:
        """Return whether every wrong class of an image is refuted."""
        image = self._same[image]
        return not open_classes([image], self.labels, self.classes, self.refuted)[image]

    def save(
        self,
        path: Path,
        *,
        network: str,
        ball: Ball,
        arithmetic: str,
        first: int,
        certified: Sequence[int],
        groups: Sequence[tuple[int, int, int]],
    ) -> None:
        """Write the file of proofs.

        Args:
            path: The file; it appears once it is whole.
            network: SHA-256 of the ONNX file of the network.
            ball: The perturbations.
            arithmetic: That the network is computed in.
            first: The number of the first image in its data set.
            certified: Numbers of the images that are certified, from 0.
            groups: First image, size and number of safe images of each group.
        """
        clip = None if ball.clip is None else [float(end) for end in ball.clip]
        statement = {
            "format": FORMAT,
            "network": network,
            "eps": largest(ball.eps),
            "eps_map": map_hash(ball.eps) or None,
            "clip": clip,
            "arithmetic": arithmetic,
            "first": first,
            "labels": self.labels,
            "images": [hashlib.sha256(p.astype("<f4").tobytes()).hexdigest() for p in self.x],
            "certified": list(certified),
            "groups": [list(group) for group in groups],
        }
        whole = [i for i in range(len(self.x)) if self.certified(i)]
        arrays = self._arrays.needed(whole)
        arrays |= {"statement": np.array(json.dumps(statement)), "pixels": self.x}
        if isinstance(ball.eps, Tensor):
            arrays["eps_map"] = ball.eps.cpu().numpy()
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        write_atomically(path, lambda out: out.write(file.getvalue()))
