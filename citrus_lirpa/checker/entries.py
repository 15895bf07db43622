"""The entries of a file of proofs: lines below margins, which leaves are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

import numpy as np

from .counting import Refuted
from .network import Array, require
from .statement import Statement

#: How an entry bounds its margin: by intervals, by CROWN's slopes, or by slopes of its own.
INTERVAL, CROWN, SLOPES = range(3)
#: Sign and multiplier of split neurons, by neuron.
Splits = dict[int, tuple[int, float]]


class Entry(NamedTuple):
    """A line below the margin of one class of an image, within one leaf.

    ``context`` numbers the bounds that it rests on; ``curved`` has the lines of curves.
    """

    context: int
    image: int
    wrong: int
    kind: int
    weight: float
    slopes: Array
    curved: Array
    splits: Splits


Leaf = tuple[Entry, ...]


def leaves_of(arrays: Mapping[str, Array], statement: Statement, classes: int) -> Iterator[Leaf]:
    """Yield the leaves, each of one entry or, for several images together, of several.

    Args:
        arrays: All arrays of a file.
        statement: That of the file.
        classes: Number of classes.

    Raises:
        Refused: An entry is of no image or wrong class, or has numbers that it may not have.
    """
    leaf = arrays["entry_leaf"]
    require((np.diff(leaf) >= 0).all(), "entries are not in the order of their leaves")
    entries = _Entries(arrays, statement, classes)
    for _, numbers in groupby(range(len(leaf)), key=leaf.tolist().__getitem__):
        yield tuple(map(entries.entry, numbers))


def pairs_of(leaf: Leaf) -> Refuted:
    """Return the (image, class) pairs that a leaf is about."""
    return frozenset((entry.image, entry.wrong) for entry in leaf)


def signs_of(leaf: Leaf) -> dict[tuple[int, int], int]:
    """Return the signs that a leaf restricts (image, neuron) to."""
    found: dict[tuple[int, int], int] = {}
    for entry in leaf:
        for neuron, (sign, _) in entry.splits.items():
            same = found.setdefault((entry.image, neuron), sign) == sign
            require(same, f"neuron {neuron} has two signs in one leaf")
    return found


class _Entries:
    """What the arrays of a file hold of its entries."""

    def __init__(self, arrays: Mapping[str, Array], statement: Statement, classes: int):
        self.arrays, self.classes = arrays, classes
        self.first, self.labels = statement.first, statement.labels
        self.splits = _splits(arrays)
        self.slope_ends = np.r_[0, arrays["slope_end"]]
        #: Of each entry with slopes of its own, where its lines of curves are.
        self.at = np.cumsum(arrays["entry_kind"] == SLOPES) - 1

    def entry(self, number: int) -> Entry:
        """Return an entry by its number."""
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
        slopes = self.arrays["slope"][slice(*self.slope_ends[number : number + 2])]
        inside = ((slopes >= 0) & (slopes <= 1)).all()
        require(inside, f"{said}, class {wrong}: a slope is not between 0 and 1")
        curved = self.arrays["line_entry"][self.at[number]] if kind == SLOPES else np.zeros(0)
        splits = self.splits.get(number, {})
        return Entry(context, image, wrong, kind, weight, slopes, curved, splits)


def _splits(arrays: Mapping[str, Array]) -> dict[int, Splits]:
    """Return the splits of each entry that has some."""
    found: dict[int, Splits] = defaultdict(dict)
    columns = [
        arrays[f"split_{name}"].tolist() for name in ("entry", "neuron", "sign", "multiplier")
    ]
    for entry, neuron, sign, multiplier in zip(*columns, strict=True):
        mine = found[entry]
        require(abs(sign) == 1, f"a split has the sign {sign}")
        require(multiplier >= 0, f"a multiplier of a split is {multiplier}")
        require(neuron not in mine, f"neuron {neuron} is split twice in one leaf")
        mine[neuron] = sign, multiplier
    return found
