"""Proofs of a batch of images, kept as the engine finds them, in the form that is checked."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...bounds.box import Ball
from ...bounds.radius import largest, map_hash
from ...checker import FORMAT, INTERVAL, SLOPES, Refuted, most_broken, open_classes
from ...formats.atomic import write_atomically
from .needed import needed
from .relaxation import Images, Relaxation

Array = NDArray[Any]
#: The arrays of a file, and the types of their numbers.
_ARRAYS = {
    "context_image": "int32", "claim_end": "int64", "claim_neuron": "int32",
    "claim_lower": "float32", "claim_upper": "float32",
    "entry_leaf": "int32", "entry_context": "int32", "entry_class": "int32", "entry_kind": "int8",
    "entry_weight": "float64", "slope_end": "int64", "slope": "float32",
    "split_entry": "int32", "split_neuron": "int32", "split_sign": "int8",
    "split_multiplier": "float32", "line_context": "float64", "line_entry": "float64",
}  # fmt: skip


@dataclass(frozen=True)
class _Context:
    """Bounds of one image that entries rest on.

    ``free`` are the numbers of its unstable neurons, all ReLUs in one row; ``crown`` has their
    slopes by CROWN's rule. ``curved`` are neurons of curves.
    """

    number: int
    image: int
    free: Array
    crown: Array


@dataclass(frozen=True)
class _Columns:
    """Which of an engine's columns are unstable neurons, and which these are."""

    mine: Array
    neuron: Array

    @staticmethod
    def of(images: Images, i: int) -> _Columns:
        relaxation = images.relaxation
        mine = ((relaxation.lower[i] < 0) & (relaxation.upper[i] > 0)).cpu().numpy()
        mine &= ~_of_curves(relaxation, relaxation.widths)
        sizes = [layer[0][0].numel() for layer in images.bounds]
        starts = np.cumsum([0, *sizes[:-1]])
        index = [at[i].cpu().numpy() + k for at, k in zip(relaxation.index, starts, strict=True)]
        return _Columns(mine, np.concatenate(index)[mine])


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
        self._number: dict[bytes, int] = {}
        self._same = [
            self._number.setdefault(_key(p, label), i)
            for i, (p, label) in enumerate(zip(self.x, labels, strict=True))
        ]
        self._doubtful: dict[int, Array] = {}
        self._contexts: dict[tuple[int, bytes], _Context] = {}
        self._leaves = 0
        self._parts: dict[str, list[Array]] = {}

    def begin(self, images: Images, proved: Tensor) -> None:
        """Keep what intervals prove: the margins ``proved`` (n, K-1)."""
        self.classes = proved.shape[1] + 1
        for i, lower, upper in _ends(images, range(len(images))):
            self._doubtful.setdefault(self._image(images, i), (lower < 0) & (upper > 0))
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
        contexts = self._contexts_of(images, {*flat})
        image = np.array([contexts[i].image for i in flat])
        row = rows.flatten().cpu().numpy()
        wrong = row + (row >= self.y[image])
        new = self._new(np.stack([image, wrong], 1).reshape(count, size, 2))
        which = np.repeat(new, size).nonzero()[0]
        if not len(which):
            return
        w = np.ones((count, size)) if weights is None else weights.double().cpu().numpy()
        first, more = sum(map(len, self._parts.get("entry_leaf", []))), int(new.sum())
        self._keep(
            entry_leaf=self._leaves + np.repeat(np.arange(more), size),
            entry_context=np.array([contexts[flat[e]].number for e in which]),
            entry_class=wrong[which],
            entry_kind=np.full(len(which), kind),
            entry_weight=w.flatten()[which],
        )
        self._leaves += more
        if parameter is None:
            self._keep(slope_end=np.zeros(len(which), np.int64))
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
        contexts: dict[int, _Context],
        first: int,
        parameter: Tensor,
        signs: Tensor | None,
    ) -> None:
        """Keep the lines of entries from number ``first`` on, of the images ``member``."""
        self._keep(line_entry=_lines(images.relaxation, member, parameter))
        columns = {i: _Columns.of(images, i) for i in contexts}
        values = parameter.detach().cpu().numpy()
        split = np.zeros(values.shape) if signs is None else signs.cpu().numpy()
        for k, i in enumerate(member.tolist()):
            self._keep_slopes(contexts[i], first + k, columns[i], values[k], split[k])

    def _keep_slopes(
        self, context: _Context, entry: int, columns: _Columns, values: Array, split: Array
    ) -> None:
        mine, sign = values[columns.mine], split[columns.mine]
        slopes = context.crown.copy()
        slopes[np.searchsorted(context.free, columns.neuron)] = mine.clip(0, 1)
        at = sign.nonzero()[0]
        self._keep(
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
        arrays = needed({n: self._joined(n, kind) for n, kind in _ARRAYS.items()}, whole)
        arrays |= {"statement": np.array(json.dumps(statement)), "pixels": self.x}
        if isinstance(ball.eps, Tensor):
            arrays["eps_map"] = ball.eps.cpu().numpy()
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        write_atomically(path, lambda out: out.write(file.getvalue()))

    # -- what is kept ------------------------------------------------------------------------

    def _keep(self, **arrays: Array) -> None:
        for name, values in arrays.items():
            self._parts.setdefault(name, []).append(values)

    def _joined(self, name: str, kind: str) -> Array:
        return np.concatenate(self._parts.get(name) or [np.zeros(0)]).astype(kind)

    def _image(self, images: Images, i: int) -> int:
        """Return the number in the batch of the image that stands for one."""
        return self._number[_key(images.x[i].cpu().numpy(), int(images.y[i]))]

    def _contexts_of(self, images: Images, which: Collection[int]) -> dict[int, _Context]:
        """Return the bounds of images."""
        curved = _of_curves(images.relaxation, [one[0][0].numel() for one in images.bounds])
        ends = _ends(images, which)
        return {i: self._context(images, i, low, up, curved) for i, low, up in ends}

    def _context(
        self, images: Images, i: int, lower: Array, upper: Array, curved: Array
    ) -> _Context:
        """Return the bounds of an image, which are kept once."""
        number = self._image(images, i)
        neuron = (self._doubtful[number] | ((lower < 0) & (upper > 0)) | curved).nonzero()[0]
        lower, upper, curved = lower[neuron], upper[neuron], curved[neuron]
        key = hashlib.sha256(neuron.tobytes() + lower.tobytes() + upper.tobytes()).digest()
        found = self._contexts.get((number, key))
        if found is None:
            free = (lower < 0) & (upper > 0) & ~curved
            crown = (upper > -lower)[free].astype(lower.dtype)
            found = _Context(len(self._contexts), number, neuron[free], crown)
            self._contexts[number, key] = found
            self._keep(
                context_image=np.array([number]),
                claim_end=np.array([len(neuron)]),
                claim_neuron=neuron,
                claim_lower=lower,
                claim_upper=upper,
                line_context=_lines(images.relaxation, torch.tensor([i])),
            )
        return found


def _ends(images: Images, which: Collection[int]) -> Iterator[tuple[int, Array, Array]]:
    """Yield images, and their lower and upper bounds of all inputs of ReLUs and curves in a row."""
    rows = sorted(which)
    at = torch.tensor(rows, device=images.x.device)
    ends = (
        torch.cat([e[at].flatten(1) for e in side], 1) for side in zip(*images.bounds, strict=True)
    )
    return zip(rows, *(side.cpu().numpy() for side in ends), strict=True)


def _of_curves(relaxation: Relaxation, sizes: Sequence[int]) -> Array:
    """Return which neurons, or columns, are of curves: as many of each layer as ``sizes`` say."""
    return np.repeat([curved is not None for curved in relaxation.curved], sizes)


def _lines(relaxation: Relaxation, images: Tensor, parameter: Tensor | None = None) -> Array:
    """Return (R, values of curves and products, 4) what the checker needs of their lines.

    That is slope and touch of a line below and of one above, or both slopes of such planes.

    Args:
        relaxation: Of the images.
        images: (R,) which image each row is of.
        parameter: (R, M) as of a dual bound; CROWN's if None.
    """
    if not any(curved is not None for curved in relaxation.curved):
        return np.zeros((len(images), 0, 4))
    p = torch.full_like(relaxation.lower[images], 0.5) if parameter is None else parameter
    found = []
    for part, bent in zip(p.split(relaxation.widths, 1), relaxation.curved, strict=True):
        if bent is not None:
            found.append(bent.rows(images).stated(part))
    return torch.cat(found, 1).cpu().numpy()


def _key(pixels: Array, label: int) -> bytes:
    return pixels.tobytes() + int(label).to_bytes(8, "little")
