"""What a file of proofs claims, and whether it follows."""

from __future__ import annotations

import functools
import struct
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .core import Box, Choice, Claims, Line, Ranges, least
from .counting import Refuted, covers, most_broken, open_classes
from .entries import INTERVAL, SLOPES, Entry, Leaf, leaves_of, pairs_of, signs_of
from .network import Array, Network, Numbers, Refused, require
from .onnx import network_of
from .statement import Statement

#: Leaves that are bounded together.
_AT_ONCE = 128
#: What a damaged file makes NumPy and Python raise.
_DAMAGED = (
    *(AttributeError, IndexError, KeyError, TypeError, ValueError, OSError, EOFError),
    *(RecursionError, struct.error, zipfile.BadZipFile, NotImplementedError),
)


@dataclass
class Summary:
    """What was checked, of which images and statements, and what was refused and why.

    Statements are of eps, a map of eps, clip and arithmetic.
    """

    images: int = 0
    groups: int = 0
    refused: list[str] = field(default_factory=list)
    statements: set[tuple[float, str | None, tuple[float, ...] | None, str]] = field(
        default_factory=set
    )
    numbers: set[int] = field(default_factory=set)


def read_network(path: Path, *, exact: bool = False) -> Network:
    """Read an ONNX file; Refused where it is not of layers that are read."""
    try:
        return network_of(path.read_bytes(), Numbers(exact))
    except _DAMAGED as error:
        raise Refused(f"{path} cannot be read as an ONNX file: {error!r}") from error


def check_folder(folder: Path, network: Network) -> Summary:
    """Check every file of proofs in a folder."""
    np.empty(3 * 2**20)  # freed at once: from now on glibc keeps blocks of up to 24 MiB
    summary = Summary()
    files = sorted(folder.glob("*.npz"))
    if not files:
        summary.refused.append(f"{folder} holds no proofs (files .npz)")
    for file in files:
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                _File({name: arrays[name] for name in arrays.files}, network).check(
                    summary, file.name
                )
        except (Refused, *_DAMAGED) as error:
            known = isinstance(error, Refused)
            summary.refused.append(f"{file.name}: {error if known else f'is damaged: {error!r}'}")
    return summary


class _File:
    """The proofs of one file, and the statement that they are to prove."""

    def __init__(self, arrays: Mapping[str, Array], network: Network):
        self.arrays, self.network, self.of = arrays, network, network.numbers.of
        self.statement = Statement(arrays, network)
        self.first, self.labels = self.statement.first, self.statement.labels
        self.same, self.classes = self.statement.same, network.counts[network.output]
        self.claim_ends = np.r_[0, arrays["claim_end"]]
        self.ranges = functools.lru_cache(maxsize=64)(self._ranges)

    def check(self, summary: Summary, name: str) -> None:
        """Add what holds, and what does not, to a summary."""
        problems: list[str] = []
        summary.statements.add(self.statement.conditions)
        self._count_once(summary)
        refuted = self._refuted(problems)
        known = (self.labels, self.classes, refuted)
        for i in map(int, self.statement.certified):
            require(0 <= i < len(self.labels), "a certified image is not among the images")
            left = open_classes([self.same[i]], *known)[self.same[i]]
            summary.images += not left
            if left:
                problems.append(f"image {self.first + i}: class {left[0]} is not refuted")
        for first, size, safe in self.statement.groups:
            members = range(first, first + size)
            most = size - most_broken([self.same[i] for i in members], *known)
            summary.groups += most >= safe
            if most < safe:
                problems.append(
                    f"group of images {self.first + first} to {self.first + members[-1]}: "
                    f"{safe} are claimed to be safe, {most} follow"
                )
        summary.refused += [f"{name}: {problem}" for problem in problems]

    def _count_once(self, summary: Summary) -> None:
        """Refuse an image that is counted twice, in this file or in one before."""
        count, certified, groups = len(self.labels), self.statement.certified, self.statement.groups
        require(len(set(certified)) == len(certified), "an image is certified twice")
        for first, size, _ in groups:
            require(0 <= first and 0 < size <= count - first, "a group is of no images")
        members = [first + k for first, size, _ in groups for k in range(size)]
        require(len(set(members)) == len(members), "an image is in two groups")
        mine = {self.first + i for i in range(count)}
        require(not mine & summary.numbers, "its images are those of another file")
        summary.numbers |= mine

    def _refuted(self, problems: list[str]) -> set[Refuted]:
        """Return the tuples whose leaves are all proved, and cover all cases.

        They name the images that stand for those that they are of.
        """
        trees: dict[Refuted, list[Leaf]] = defaultdict(list)
        alike: dict[Any, list[Leaf]] = defaultdict(list)
        for leaf in leaves_of(self.arrays, self.statement, self.classes):
            trees[pairs_of(leaf)].append(leaf)
            alike[tuple((entry.context, entry.kind) for entry in leaf)].append(leaf)
        doubtful: set[Refuted] = set()
        for _, group in sorted(alike.items()):
            for at in range(0, len(group), _AT_ONCE):
                for leaf, problem in self._unproved(group[at : at + _AT_ONCE]):
                    doubtful.add(pairs_of(leaf))
                    problems.append(problem)
        for pairs, leaves in trees.items():
            if pairs not in doubtful and not covers([signs_of(leaf) for leaf in leaves]):
                doubtful.add(pairs)
                problems.append(f"{self._words(leaves[0])}: the leaves do not cover all cases")
        return {frozenset((self.same[i], c) for i, c in pairs) for pairs in set(trees) - doubtful}

    def _unproved(self, leaves: list[Leaf]) -> list[tuple[Leaf, str]]:
        """Return the leaves, of the same contexts and kinds, that are not proved, and why."""
        try:
            bounds = self._bounds(leaves)
        except Refused as error:
            return [(leaf, str(error)) for leaf in leaves]
        return [
            (leaf, f"{self._words(leaf)}: a leaf is bounded by {float(bound):.4g}")
            for leaf, bound in zip(leaves, bounds, strict=True)
            if not bound > 0
        ]

    def _words(self, leaf: Leaf) -> str:
        pairs = sorted(pairs_of(leaf))
        return ", ".join(f"image {self.first + i} class {c}" for i, c in pairs)

    def _ranges(self, context: int) -> Ranges:
        """Return the bounds of a context, once its claims are checked."""
        image = int(self.arrays["context_image"][context])
        start, end = self.claim_ends[context : context + 2]
        neuron, lower, upper = (
            self.arrays[f"claim_{name}"][start:end] for name in ("neuron", "lower", "upper")
        )
        lines = self.arrays["line_context"][context].astype(np.float64)
        require(np.isfinite(lines).all(), f"image {self.first + image}: a line is infinite or NaN")
        claims = Claims(neuron.astype(np.int64), self.of(lower), self.of(upper), lines)
        stated, pixels = self.statement, self.statement.pixels[image].astype(np.float64)
        box = Box(self.network, pixels, stated.eps, stated.clip, stated.on_device)
        try:
            return Ranges(self.network, box, claims)
        except Refused as error:
            raise Refused(f"image {self.first + image}: {error}") from error

    # -- bounds ------------------------------------------------------------------------------

    def _bounds(self, leaves: list[Leaf]) -> Array:
        """Return lower bounds of leaves whose entries have the same contexts and kinds."""
        entries = list(zip(*leaves, strict=True))  # by image
        weights = self.of([[entry.weight for entry in mine] for mine in entries])
        ranges = [self.ranges(mine[0].context) for mine in entries]
        lines = [self._lines(known, mine) for known, mine in zip(ranges, entries, strict=True)]
        return least([known.box for known in ranges], lines, weights)

    def _lines(self, known: Ranges, entries: Sequence[Entry]) -> Line:
        """Return lines below the margins of entries of one context and kind."""
        image, kind, rows = entries[0].image, entries[0].kind, len(entries)
        a = self.of(np.zeros((self.classes, rows)))
        slopes: Any = None
        bent: Any = None
        signs: Any = None
        multipliers: Any = None
        if kind == SLOPES:
            free = known.claims.neuron[known.free]
            enough = all(len(entry.slopes) == len(free) for entry in entries)
            require(enough, f"image {self.first + image}: slopes are missing")
            slopes = self.of(np.zeros((known.neurons, rows)))
            slopes[free] = self.of([entry.slopes for entry in entries]).T
            bent = np.stack([entry.curved for entry in entries], -1).astype(np.float64)
            require(np.isfinite(bent).all(), "a line is infinite or NaN")
            wanted = (*known.claims.bent.shape, rows)
            require(bent.shape == wanted, f"image {self.first + image}: lines are missing")
        if any(entry.splits for entry in entries):
            signs = np.zeros((known.neurons, rows), np.int64)
            multipliers = np.zeros(signs.shape)
        for row, entry in enumerate(entries):
            a[self.labels[image], row] += 1
            a[entry.wrong, row] -= 1
            for neuron, (sign, multiplier) in entry.splits.items():
                require(0 <= neuron < known.neurons, f"a split is of neuron {neuron}")
                signs[neuron, row], multipliers[neuron, row] = sign, multiplier
        multipliers = None if signs is None else self.of(multipliers)
        choice = Choice(kind == INTERVAL, slopes, bent, signs, multipliers)
        return known.lines(self.network.output, a, choice)
