"""What a file of proofs claims, and whether it follows."""

from __future__ import annotations

import functools
import hashlib
import json
import struct
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .core import Box, Choice, Claims, Line, Ranges, least
from .counting import Refuted, covers, most_broken, open_classes
from .network import Array, Network, Numbers, Refused, require
from .onnx import network_of

FORMAT = "citrus-lirpa proofs 2"
#: How an entry bounds its margin: by intervals, by CROWN's slopes, or by slopes of its own.
INTERVAL, CROWN, SLOPES = range(3)
_AT_ONCE = 128
#: What a damaged file makes NumPy and Python raise.
_DAMAGED = (
    *(AttributeError, IndexError, KeyError, TypeError, ValueError, OSError, EOFError),
    *(RecursionError, struct.error, zipfile.BadZipFile, NotImplementedError),
)


class Entry(NamedTuple):
    """A line below the margin of one class of an image, within one leaf.

    ``context`` numbers the bounds that it rests on; ``curved`` has the lines of curves, and
    ``splits`` sign and multiplier by neuron.
    """

    context: int
    image: int
    wrong: int
    kind: int
    weight: float
    slopes: Array
    curved: Array
    splits: dict[int, tuple[int, float]]


Leaf = tuple[Entry, ...]


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
        statement = json.loads(str(arrays["statement"]))
        require(statement["format"] == FORMAT, f"its format is not {FORMAT!r}")
        require(statement["network"] == network.hash, "it is of another network (SHA-256)")
        self.arithmetic = statement.get("arithmetic", "real")
        known = self.arithmetic in ("real", "float32")
        require(known, f"its arithmetic is {self.arithmetic!r}")
        self.eps, clip = self._radius(statement), statement["clip"]
        self.clip = None if clip is None else (float(clip[0]), float(clip[1]))
        self.first, self.labels = int(statement["first"]), [int(y) for y in statement["labels"]]
        self.certified, self.groups = statement["certified"], statement["groups"]
        self.pixels = arrays["pixels"]
        require(len(self.pixels) == len(self.labels), "it has other numbers of images and labels")
        found = [hashlib.sha256(p.astype("<f4").tobytes()).hexdigest() for p in self.pixels]
        for i, (mine, stated) in enumerate(zip(found, statement["images"], strict=True)):
            require(mine == stated, f"image {self.first + i}: its pixels are others (SHA-256)")
        first: dict[Any, int] = {}
        #: Of each image, the first that equals it, which stands for it.
        self.same = [
            first.setdefault((p.tobytes(), y), i)
            for i, (p, y) in enumerate(zip(self.pixels, self.labels, strict=True))
        ]
        shape, self.classes = network.shape, network.counts[network.output]
        require(self.pixels.shape[1:] == shape, f"images are not of the network's shape {shape}")
        require(all(0 <= y < self.classes for y in self.labels), "a label is no class")
        self.ends = {name: np.r_[0, arrays[f"{name}_end"]] for name in ("claim", "slope")}
        #: Of each entry with slopes of its own, where its lines of curves are.
        self.at = np.cumsum(arrays["entry_kind"] == SLOPES) - 1
        self.ranges = functools.lru_cache(maxsize=64)(self._ranges)

    def _radius(self, statement: Mapping[str, Any]) -> float | Array:
        """Return eps, one number or one for each pixel, and note what the statement says of it."""
        eps, hashed = float(statement["eps"]), statement.get("eps_map")
        require(0 <= eps < np.inf, f"eps is {eps}")
        self.stated = eps, hashed
        if hashed is None:
            return eps
        found = self.arrays["eps_map"].astype("<f8")
        mine = hashlib.sha256(found.tobytes()).hexdigest()
        require(mine == hashed, "its map of eps is another (SHA-256)")
        shape = self.network.shape
        require(found.shape == shape, f"its map of eps is not of the network's shape {shape}")
        require((found >= 0).all() and found.max() == eps, "its map of eps is not from 0 to eps")
        return found

    def check(self, summary: Summary, name: str) -> None:
        """Add what holds, and what does not, to a summary."""
        problems: list[str] = []
        summary.statements.add((*self.stated, self.clip, self.arithmetic))
        self._count_once(summary)
        refuted = self._refuted(problems)
        known = (self.labels, self.classes, refuted)
        for i in map(int, self.certified):
            require(0 <= i < len(self.labels), "a certified image is not among the images")
            left = open_classes([self.same[i]], *known)[self.same[i]]
            summary.images += not left
            if left:
                problems.append(f"image {self.first + i}: class {left[0]} is not refuted")
        for first, size, safe in self.groups:
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
        require(len(set(self.certified)) == len(self.certified), "an image is certified twice")
        for first, size, _ in self.groups:
            inside = 0 <= first and 0 < size <= len(self.labels) - first
            require(inside, "a group is of no images")
        members = [first + k for first, size, _ in self.groups for k in range(size)]
        require(len(set(members)) == len(members), "an image is in two groups")
        mine = {self.first + i for i in range(len(self.labels))}
        require(not mine & summary.numbers, "its images are those of another file")
        summary.numbers |= mine

    def _refuted(self, problems: list[str]) -> set[Refuted]:
        """Return the tuples whose leaves are all proved, and cover all cases.

        They name the images that stand for those that they are of.
        """
        trees: dict[Refuted, list[Leaf]] = defaultdict(list)
        alike: dict[Any, list[Leaf]] = defaultdict(list)
        for leaf in self._leaves():
            trees[_pairs(leaf)].append(leaf)
            alike[tuple((entry.context, entry.kind) for entry in leaf)].append(leaf)
        doubtful: set[Refuted] = set()
        for _, group in sorted(alike.items()):
            for at in range(0, len(group), _AT_ONCE):
                for leaf, problem in self._unproved(group[at : at + _AT_ONCE]):
                    doubtful.add(_pairs(leaf))
                    problems.append(problem)
        for pairs, leaves in trees.items():
            if pairs not in doubtful and not covers([_signs(leaf) for leaf in leaves]):
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
        pairs = sorted(_pairs(leaf))
        return ", ".join(f"image {self.first + i} class {c}" for i, c in pairs)

    # -- what the arrays hold ----------------------------------------------------------------

    def _leaves(self) -> Iterator[Leaf]:
        """Yield the leaves, each of one entry or, for several images together, of several."""
        leaf = self.arrays["entry_leaf"]
        require((np.diff(leaf) >= 0).all(), "entries are not in the order of their leaves")
        splits = self._splits()
        for _, numbers in groupby(range(len(leaf)), key=leaf.tolist().__getitem__):
            yield tuple(self._entry(number, splits.get(number, {})) for number in numbers)

    def _entry(self, number: int, splits: dict[int, tuple[int, float]]) -> Entry:
        context, wrong, kind = (
            int(self.arrays[f"entry_{name}"][number]) for name in ("context", "class", "kind")
        )
        require(0 <= context < len(self.arrays["context_image"]), "an entry is of no context")
        image = int(self.arrays["context_image"][context])
        require(0 <= image < len(self.labels), "an entry is of no image")
        said = f"image {self.first + image}"
        require(0 <= wrong < self.classes, f"{said}: no class {wrong}")
        require(wrong != self.labels[image], f"{said}: {wrong} is its label")
        require(kind in (INTERVAL, CROWN, SLOPES), f"{said}: an entry has the kind {kind}")
        weight = float(self.arrays["entry_weight"][number])
        require(weight >= 0, f"{said}, class {wrong}: a weight is {weight}")
        slopes = self.arrays["slope"][slice(*self.ends["slope"][number : number + 2])]
        inside = ((slopes >= 0) & (slopes <= 1)).all()
        require(inside, f"{said}, class {wrong}: a slope is not between 0 and 1")
        curved = self.arrays["line_entry"][self.at[number]] if kind == SLOPES else np.zeros(0)
        return Entry(context, image, wrong, kind, weight, slopes, curved, splits)

    def _splits(self) -> dict[int, dict[int, tuple[int, float]]]:
        """Return sign and multiplier of the splits of each entry, by neuron."""
        found: dict[int, dict[int, tuple[int, float]]] = defaultdict(dict)
        columns = [
            self.arrays[f"split_{name}"].tolist()
            for name in ("entry", "neuron", "sign", "multiplier")
        ]
        for entry, neuron, sign, multiplier in zip(*columns, strict=True):
            mine = found[entry]
            require(abs(sign) == 1, f"a split has the sign {sign}")
            require(multiplier >= 0, f"a multiplier of a split is {multiplier}")
            require(neuron not in mine, f"neuron {neuron} is split twice in one leaf")
            mine[neuron] = sign, multiplier
        return found

    def _ranges(self, context: int) -> Ranges:
        """Return the bounds of a context, once its claims are checked."""
        image = int(self.arrays["context_image"][context])
        start, end = self.ends["claim"][context : context + 2]
        neuron, lower, upper = (
            self.arrays[f"claim_{name}"][start:end] for name in ("neuron", "lower", "upper")
        )
        lines = self.arrays["line_context"][context].astype(np.float64)
        require(np.isfinite(lines).all(), f"image {self.first + image}: a line is infinite or NaN")
        claims = Claims(neuron.astype(np.int64), self.of(lower), self.of(upper), lines)
        pixels = self.pixels[image].astype(np.float64)
        on_device = self.arithmetic == "float32"
        box = Box(self.network, pixels, self.eps, self.clip, on_device)
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


def _pairs(leaf: Leaf) -> Refuted:
    """Return the (image, class) pairs that a leaf is about."""
    return frozenset((entry.image, entry.wrong) for entry in leaf)


def _signs(leaf: Leaf) -> dict[tuple[int, int], int]:
    """Return the signs that a leaf restricts (image, neuron) to."""
    found: dict[tuple[int, int], int] = {}
    for entry in leaf:
        for neuron, (sign, _) in entry.splits.items():
            same = found.setdefault((entry.image, neuron), sign) == sign
            require(same, f"neuron {neuron} has two signs in one leaf")
    return found
