"""What a file of proofs claims, and whether it follows."""

from __future__ import annotations

import functools
import hashlib
import json
import struct
import zipfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from .affine import Array, Numbers, Refused, require
from .bounds import Box, Claims, Lines, Ranges, least
from .network import Network

FORMAT = "citrus-lirpa proofs 1"
#: How an entry bounds its margin: by intervals, by CROWN's slopes, or by slopes of its own.
INTERVAL, CROWN, SLOPES = range(3)
_AT_ONCE, _MOST_TRIES = 128, 1_000_000
#: Images and classes that one perturbation does not break together.
Refuted = frozenset[tuple[int, int]]
#: What a damaged file makes NumPy and Python raise.
_DAMAGED = (
    *(AttributeError, IndexError, KeyError, TypeError, ValueError, OSError, EOFError),
    *(RecursionError, struct.error, zipfile.BadZipFile, NotImplementedError),
)


@dataclass
class Summary:
    """What was checked, of which images, eps, map of eps and clip, and what was refused and why."""

    images: int = 0
    groups: int = 0
    refused: list[str] = field(default_factory=list)
    boxes: set[tuple[float, str | None, tuple[float, ...] | None]] = field(default_factory=set)
    numbers: set[int] = field(default_factory=set)


def read_network(path: Path, *, exact: bool = False) -> Network:
    """Read an ONNX file; Refused where it is not of piecewise linear layers that are read."""
    try:
        return Network(path.read_bytes(), Numbers(exact))
    except _DAMAGED as error:
        raise Refused(f"{path} cannot be read as an ONNX file: {error}") from error


def check_folder(folder: Path, network: Network) -> Summary:
    """Check every file of proofs in a folder."""
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
        self.eps, clip = self._radius(statement), statement["clip"]
        self.clip = None if clip is None else (float(clip[0]), float(clip[1]))
        self.first, self.labels = int(statement["first"]), [int(y) for y in statement["labels"]]
        self.certified, self.groups = statement["certified"], statement["groups"]
        self.pixels = arrays["pixels"]
        require(len(self.pixels) == len(self.labels), "it has other numbers of images and labels")
        found = [hashlib.sha256(p.astype("<f4").tobytes()).hexdigest() for p in self.pixels]
        for i, (mine, stated) in enumerate(zip(found, statement["images"], strict=True)):
            require(mine == stated, f"image {self.first + i}: its pixels are others (SHA-256)")
        shape = network.shapes[network.input]
        require(self.pixels.shape[1:] == shape, f"images are not of the network's shape {shape}")
        require(all(0 <= y < network.classes for y in self.labels), "a label is no class")
        self.ends = {name: np.r_[0, arrays[f"{name}_end"]] for name in ("claim", "slope")}
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
        shape = self.network.shapes[self.network.input]
        require(found.shape == shape, f"its map of eps is not of the network's shape {shape}")
        require((found >= 0).all() and found.max() == eps, "its map of eps is not from 0 to eps")
        return found

    def check(self, summary: Summary, name: str) -> None:
        """Add what holds, and what does not, to a summary."""
        problems: list[str] = []
        summary.boxes.add((*self.stated, None if self.clip is None else tuple(self.clip)))
        self._count_once(summary)
        refuted = self._refuted(problems)
        summary.refused += [f"{name}: {problem}" for problem in problems]
        for i in map(int, self.certified):
            require(0 <= i < len(self.labels), "a certified image is not among the images")
            left = open_classes([i], self.labels, self.network.classes, refuted)[i]
            summary.images += not left
            if left:
                summary.refused.append(
                    f"{name}: image {self.first + i}: class {left[0]} is not refuted"
                )
        for first, size, safe in self.groups:
            members = range(first, first + size)
            most = size - most_broken(members, self.labels, self.network.classes, refuted)
            summary.groups += most >= safe
            if most < safe:
                summary.refused.append(
                    f"{name}: group of images {self.first + first} to {self.first + members[-1]}: "
                    f"{safe} are claimed to be safe, {most} follow"
                )

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

    # -- refuted tuples ----------------------------------------------------------------------

    def _refuted(self, problems: list[str]) -> set[Refuted]:
        """Return the tuples whose leaves cover all cases and are all proved."""
        entries = range(len(self.arrays["entry_leaf"]))
        leaf = self.arrays["entry_leaf"]
        require((np.diff(leaf) >= 0).all(), "entries are not in the order of their leaves")
        leaves = [tuple(group) for _, group in groupby(entries, key=lambda e: int(leaf[e]))]
        trees: dict[Refuted, list[tuple[int, ...]]] = defaultdict(list)
        alike: dict[Any, list[tuple[int, ...]]] = defaultdict(list)
        for one in leaves:
            trees[self._tuple(one)].append(one)
            alike[tuple((self._context(e), int(self.arrays["entry_kind"][e])) for e in one)].append(
                one
            )
        splits = self._splits()
        proved: set[tuple[int, ...]] = set()
        for contexts, group in sorted(alike.items()):
            for at in range(0, len(group), _AT_ONCE):
                part = group[at : at + _AT_ONCE]
                try:
                    bounds = self._bounds(contexts, np.array(part), splits)
                except Refused as error:
                    problems.append(str(error))
                    continue
                for one, bound in zip(part, bounds, strict=True):
                    if bound > 0:
                        proved.add(one)
                    else:
                        problems.append(
                            f"{self._words(one)}: a leaf is bounded by {float(bound):.4g}"
                        )
        refuted = set()
        for key, members in trees.items():
            if not proved.issuperset(members):
                continue
            if self._covers(members, splits):
                refuted.add(key)
            else:
                problems.append(f"{self._words(members[0])}: the leaves do not cover all cases")
        return refuted

    def _context(self, entry: int) -> int:
        return int(self.arrays["entry_context"][entry])

    def _tuple(self, leaf: tuple[int, ...]) -> Refuted:
        """Return the (image, class) pairs that a leaf is about."""
        found = set()
        for entry in leaf:
            image = int(self.arrays["context_image"][self._context(entry)])
            wrong = int(self.arrays["entry_class"][entry])
            require(0 <= image < len(self.labels), "an entry is of no image")
            require(
                0 <= wrong < self.network.classes, f"image {self.first + image}: no class {wrong}"
            )
            require(
                wrong != self.labels[image], f"image {self.first + image}: {wrong} is its label"
            )
            found.add((image, wrong))
        return frozenset(found)

    def _words(self, leaf: tuple[int, ...]) -> str:
        pairs = sorted(self._tuple(leaf))
        return ", ".join(f"image {self.first + i} class {c}" for i, c in pairs)

    def _splits(self) -> dict[int, dict[int, tuple[int, float]]]:
        """Return sign and multiplier of the splits of each entry, by neuron."""
        found: dict[int, dict[int, tuple[int, float]]] = defaultdict(dict)
        names = ("split_entry", "split_neuron", "split_sign", "split_multiplier")
        for entry, neuron, sign, multiplier in zip(
            *(self.arrays[name].tolist() for name in names), strict=True
        ):
            require(abs(sign) == 1, f"a split has the sign {sign}")
            require(multiplier >= 0, f"a multiplier of a split is {multiplier}")
            require(neuron not in found[entry], f"neuron {neuron} is split twice in one leaf")
            found[entry][neuron] = sign, multiplier
        return found

    def _covers(self, leaves: list[tuple[int, ...]], splits: Any) -> bool:
        """Return whether the splits of the leaves make a tree of all cases."""
        signs = []
        for one in leaves:
            mine: dict[tuple[int, int], int] = {}
            for entry in one:
                image = int(self.arrays["context_image"][self._context(entry)])
                for neuron, (sign, _) in splits.get(entry, {}).items():
                    if mine.setdefault((image, neuron), sign) != sign:
                        return False
            signs.append(mine)
        names = {key: k for k, key in enumerate(sorted({key for mine in signs for key in mine}))}
        table = np.zeros((len(signs), len(names)), np.int8)
        for row, mine in enumerate(signs):
            for key, sign in mine.items():
                table[row, names[key]] = sign
        pending = [table]
        while pending:
            table = pending.pop()
            if not len(table):
                return False
            if (table == 0).all(1).any():
                continue  # a leaf without splits is all cases
            common = np.flatnonzero((table != 0).all(0))
            if not len(common):
                return False
            column = table[:, common[0]]
            rest = np.delete(table, common[0], 1)
            pending += [rest[column > 0], rest[column < 0]]
        return True

    # -- bounds ------------------------------------------------------------------------------

    def _ranges(self, context: int) -> Ranges:
        image = int(self.arrays["context_image"][context])
        start, end = self.ends["claim"][context : context + 2]
        lower, upper = (
            self.of(self.arrays[f"claim_{name}"][start:end]) for name in ("lower", "upper")
        )
        claims = Claims(self.arrays["claim_neuron"][start:end].astype(np.int64), lower, upper)
        box = Box(self.network, self.pixels[image].astype(np.float64), self.eps, self.clip)
        return Ranges(box, claims, f"image {self.first + image}")

    def _bounds(self, contexts: Any, leaves: Array, splits: Any) -> Array:
        """Return lower bounds of leaves whose entries have the same contexts and kinds."""
        weights = self.of(self.arrays["entry_weight"][leaves])
        require((weights >= 0).all(), f"{self._words(tuple(leaves[0]))}: a weight is negative")
        ranges = [self.ranges(context) for context, _ in contexts]
        lines = [
            self._lines(known, kind, entries, splits)
            for known, (_, kind), entries in zip(ranges, contexts, leaves.T, strict=True)
        ]
        return least([known.box for known in ranges], lines, weights)

    def _lines(self, known: Ranges, kind: int, entries: Array, splits: Any) -> Lines:
        """Return lines below the margins of entries of one context and kind."""
        rows = np.arange(len(entries))
        image = int(self.arrays["context_image"][self._context(int(entries[0]))])
        a = self.of(np.zeros((len(entries), self.network.classes)))
        a[rows, self.labels[image]] += 1
        a[rows, self.arrays["entry_class"][entries]] -= 1
        require(kind in (INTERVAL, CROWN, SLOPES), f"an entry has the kind {kind}")
        slopes = None
        if kind == SLOPES:
            parts = [self.arrays["slope"][slice(*self.ends["slope"][e : e + 2])] for e in entries]
            slopes = self.of(np.stack(parts))
            require(
                slopes.shape[1] == len(known.free),
                f"image {self.first + image}: slopes are missing",
            )
            inside = ((slopes >= 0) & (slopes <= 1)).all()
            require(inside, f"image {self.first + image}: a slope is not between 0 and 1")
        signs = multipliers = None
        mine = [splits.get(int(e), {}) for e in entries]
        if any(mine):
            signs = np.zeros((len(entries), known.neurons), np.int64)
            multipliers = self.of(np.zeros(signs.shape))
            for row, found in enumerate(mine):
                for neuron, (sign, multiplier) in found.items():
                    signs[row, neuron], multipliers[row, neuron] = sign, self.of(multiplier)[()]
        return known.lines(
            self.network.output,
            a,
            slopes=slopes,
            splits=signs,
            multipliers=multipliers,
            interval=kind == INTERVAL,
        )


def open_classes(
    members: Iterable[int], labels: Sequence[int], classes: int, refuted: Collection[Refuted]
) -> dict[int, list[int]]:
    """Return the wrong classes of each image that are not refuted alone."""
    return {
        i: [c for c in range(classes) if c != labels[i] and frozenset([(i, c)]) not in refuted]
        for i in members
    }


def most_broken(
    members: Sequence[int], labels: Sequence[int], classes: int, refuted: Collection[Refuted]
) -> int:
    """Return how many images of a group one perturbation may break, by what is refuted."""
    options = open_classes(members, labels, classes, refuted)
    several = [pairs for pairs in refuted if len(pairs) > 1]
    named = {pair for pairs in several for pair in pairs}
    able = [i for i in members if options[i]]
    tied = [i for i in able if all((i, c) in named for c in options[i])]
    mine = [pairs for pairs in several if {i for i, _ in pairs} <= set(tied)]
    best, tries = 0, 0

    def extend(at: int, chosen: frozenset[tuple[int, int]]) -> None:
        nonlocal best, tries
        tries += 1
        require(tries <= _MOST_TRIES, "a group has more combinations than are tried")
        best = max(best, len(chosen))
        if len(chosen) + len(tied) - at <= best:
            return
        for c in options[tied[at]]:
            more = chosen | {(tied[at], c)}
            if not any(pairs <= more for pairs in mine):
                extend(at + 1, more)
        extend(at + 1, chosen)

    extend(0, frozenset())
    return best + len(able) - len(tied)
