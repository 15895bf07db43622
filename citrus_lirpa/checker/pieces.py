"""Operations of ONNX that are piecewise linear, or only move numbers, for a checker of proofs.

max(a, b) = b + ReLU(a - b), min(a, b) = b - ReLU(b - a), |x| = 2 ReLU(x) - x, and x times s below
zero is ReLU(x) + s (x - ReLU(x)). Each ReLU has its neurons; their order is in the documentation
(Proofs). Values written so also have the interval of the operation itself, which is narrower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .affine import Affine, Array, Joined, Numbers, Refused, Selection, Sum, require

#: Ends of intervals.
Ends = tuple[Array, Array]
#: The interval of a value, from those of its operands.
Hull = Callable[..., Ends]
#: Adds a node to the network: its name, sources, and Affine or None for ReLU; returns the name.
Add = Callable[[str, Sequence[str], "Affine | None"], str]


class Writer:
    """Writes one operation of ONNX as affine ones and ReLUs.

    Args:
        result: The name of its value.
        numbers: The arithmetic.
        add: Adds a node to the network.
        hulls: Receives the values with intervals of their own, and what these follow from.
    """

    def __init__(
        self, result: str, numbers: Numbers, add: Add, hulls: dict[str, tuple[list[str], Hull]]
    ):
        self.result, self.numbers, self.add, self.hulls = result, numbers, add, hulls
        self.count = 0

    def named(self) -> str:
        """Return a name for a value within the operation."""
        self.count += 1
        return f"{self.result}:{self.count}"

    def sum(self, *parts: tuple[Any, str], name: str = "") -> str:
        """Add a sum of values times factors."""
        weights = np.array([factor for factor, _ in parts])
        sources = [source for _, source in parts]
        return self.add(name or self.named(), sources, Sum(weights, terms=len(parts)))

    def relu(self, source: str) -> str:
        """Add the ReLU of a value."""
        return self.add(self.named(), [source], None)

    def shifted(self, factor: int, source: str, constant: Array, name: str = "") -> str:
        """Add a value times 1 or -1, plus a constant."""
        return self.add(name or self.named(), [source], Affine(factor, constant))

    def larger(self, a: str, b: str, sign: int = 1, name: str = "") -> str:
        """Add the maximum of two values, or, for sign -1, the minimum."""
        over = self.relu(self.sum((sign, a), (-sign, b)))
        whole = self.sum((1, b), (sign, over), name=name)
        function = np.maximum if sign > 0 else np.minimum
        self.hulls[whole] = [a, b], lambda x, y: (function(x[0], y[0]), function(x[1], y[1]))
        return whole

    def limited(self, a: str, constant: Array, sign: int, name: str = "") -> str:
        """Add the maximum of a value and a constant, or, for sign -1, the minimum."""
        over = self.relu(self.shifted(sign, a, -sign * constant))
        return self.shifted(sign, over, constant, name)

    # -- operations ---------------------------------------------------------------------------

    def absolute(self, x: str) -> None:
        """Write |x|."""

        def hull(ends: Ends) -> Ends:
            low, up = ends
            return np.maximum(np.maximum(low, -up), 0 * low), np.maximum(-low, up)

        self.hulls[self.sum((2, self.relu(x)), (-1, x), name=self.result)] = [x], hull

    def leaky(self, x: str, slope: Array) -> None:
        """Write x where it is positive, slope times x elsewhere."""

        def hull(ends: Ends) -> Ends:
            low, up = (np.where(end > 0, end, end * slope) for end in ends)
            kink = np.where((ends[0] < 0) & (ends[1] > 0), 0 * low, low)
            lowest = np.minimum(np.minimum(low, up), kink)
            return self.numbers.out(lowest, np.maximum(np.maximum(low, up), kink))

        above = self.relu(x)
        below = self.add(self.named(), [self.sum((1, x), (-1, above))], Affine(slope))
        self.hulls[self.sum((1, above), (1, below), name=self.result)] = [x], hull

    def clip(self, x: str, low: Array | None, high: Array | None) -> None:
        """Write x between two constants, each of which may be missing."""
        if low is not None:
            x = self.limited(x, low, 1, self.result if high is None else "")
        if high is not None:
            x = self.limited(x, high, -1, self.result)
        require(x == self.result, f"Clip {self.result} has no limits")

    def largest(self, values: Sequence[tuple[str | None, Array | None]], sign: int) -> None:
        """Write the maximum of values and constants, or, for sign -1, the minimum."""
        known = [constant for _, constant in values if constant is not None]
        (first, *names) = [name for name, _ in values if name is not None]
        left = len(names) + len(known)
        for name in names:
            left -= 1
            first = self.larger(first, name, sign, "" if left else self.result)
        for constant in known:
            left -= 1
            first = self.limited(first, constant, sign, "" if left else self.result)

    def max_pool(self, x: str, shape: tuple[int, ...], windows: list[list[list[int]]]) -> None:
        """Write the maximum over windows, along one axis after the other, the last one first.

        Args:
            x: The value.
            shape: Its shape, without the first axis.
            windows: For each axis behind the channels, the places of every window.
        """
        for axis in range(len(shape) - 1, 0, -1):
            mine = windows[axis - 1]
            while max(map(len, mine)) > 1:
                x, shape, mine = self._level(x, shape, axis, mine)
            places = [place for (place,) in mine]
            name = self.result if axis == 1 else ""
            x, shape = self._taken(x, shape, axis, places, name)

    def _level(
        self, x: str, shape: tuple[int, ...], axis: int, windows: list[list[int]]
    ) -> tuple[str, tuple[int, ...], list[list[int]]]:
        """Write maxima of pairs; windows of odd length keep their last place for the next level."""
        pairs = sorted({(w[k], w[k + 1]) for w in windows for k in range(0, len(w) - 1, 2)})
        alone = sorted({w[-1] for w in windows if len(w) % 2})
        first, _ = self._taken(x, shape, axis, [a for a, _ in pairs])
        second, paired = self._taken(x, shape, axis, [b for _, b in pairs])
        value, after = self.larger(first, second), paired
        if alone:
            others, rest = self._taken(x, shape, axis, alone)
            after = (*paired[:axis], paired[axis] + rest[axis], *paired[axis + 1 :])
            joined = Joined(axis, [paired[axis], rest[axis]])
            value = self.add(self.named(), [value, others], joined)
        number = {pair: k for k, pair in enumerate(pairs)}
        last = {place: len(pairs) + k for k, place in enumerate(alone)}
        found = [
            [number[w[k], w[k + 1]] for k in range(0, len(w) - 1, 2)]
            + ([last[w[-1]]] if len(w) % 2 else [])
            for w in windows
        ]
        return value, after, found

    def _taken(
        self, x: str, shape: tuple[int, ...], axis: int, places: list[int], name: str = ""
    ) -> tuple[str, tuple[int, ...]]:
        index = np.take(np.arange(int(np.prod(shape))).reshape(shape), places, axis)
        return self.add(name or self.named(), [x], Selection(index, shape)), index.shape


def windows_of(
    given: dict[str, Any], shape: tuple[int, ...], refused: str
) -> list[list[list[int]]]:
    """Return the places of a MaxPool's windows along each axis; padding is in none."""
    sizes, count = given["kernel_shape"], len(given["kernel_shape"])
    require(len(shape) == count + 1 and "auto_pad" not in given, refused)
    pads, strides = given.get("pads", [0] * 2 * count), given.get("strides", [1] * count)
    steps, ceil = given.get("dilations", [1] * count), given.get("ceil_mode", [0])[0]
    found = []
    for axis, (size, stride, step) in enumerate(zip(sizes, strides, steps, strict=True)):
        sides, before, after = shape[axis + 1], pads[axis], pads[axis + count]
        room = sides + before + after - step * (size - 1) - 1
        number = (room + (stride - 1 if ceil else 0)) // stride + 1
        if ceil and (number - 1) * stride >= sides + before:
            number -= 1  # no window begins in the padding at the end
        starts = [k * stride - before for k in range(number)]
        mine = [[s + step * k for k in range(size) if 0 <= s + step * k < sides] for s in starts]
        if not mine or not all(mine):
            raise Refused(f"{refused}: a window holds padding alone")
        found.append(mine)
    return found
