"""Networks as a checker of proofs sees them: affine maps, ReLUs and bends; and its arithmetic.

Values are columns: n numbers for each of R rows are an array (n, R).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Refused(Exception):
    """A proof does not hold, or cannot be read; the message names what and why."""


def require(holds: Any, message: str) -> None:
    """Raise Refused unless something holds."""
    if not bool(holds):
        raise Refused(message)


class Numbers:
    """The arithmetic: float64 with twice its unit roundoff, or fractions with none."""

    def __init__(self, exact: bool):
        self.exact, self.dtype = exact, np.dtype(object if exact else np.float64)
        self.unit: float = 0 if exact else 2.0**-52
        self.tiny: float = 0 if exact else 1e-280

    def of(self, values: Any) -> Array:
        """Return float values as numbers of this arithmetic."""
        array = np.asarray(values, np.float64)
        require(np.isfinite(array).all(), "a number is infinite or NaN")
        return np.asarray(np.frompyfunc(Fraction, 1, 1)(array) if self.exact else array, self.dtype)

    def out(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return ends moved outward by one rounding."""
        return (lower, upper) if self.exact else _out(lower, upper)

    def floats(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return ends in float64, moved outward where it does not hold them."""
        low, up = lower.astype(np.float64), upper.astype(np.float64)
        least, most = _out(low, up)
        return np.where(low > lower, least, low), np.where(up < upper, most, up)


def _out(lower: Array, upper: Array) -> tuple[Array, Array]:
    return np.nextafter(lower, -np.inf), np.nextafter(upper, np.inf)


def dot(x: Any, a: Array) -> Array:
    """Return the sums (R,) of x·a over rows, x being a column or one number."""
    return np.asarray(np.broadcast_to(x, (len(a), 1))[:, 0] @ a)


class Affine:
    """scale * (weight x[index]) + shift, x being the values of all sources in one column.

    Args:
        count: How many numbers x has.
        weight: (O, K).
        index: (K, P) places in x; -1 stands for 0. The result has O·P numbers.
        scale: One number, or a column of them.
        shift: Likewise.
        size: At least |shift|, where that is a rounded difference.
    """

    def __init__(
        self, count: int, weight: Any, index: Array, scale: Any = 1, shift: Any = 0, size: Any = 0
    ):
        self.weight, self.scale, self.shift = weight, scale, shift
        self.size = np.maximum(abs(shift), size)
        self.index = np.where(index < 0, count, index)
        flat = self.index.ravel()
        order = np.argsort(flat, kind="stable")[: int((flat < count).sum())]
        places = flat[order]
        rank = np.arange(len(order)) - np.searchsorted(places, places)
        #: (U, count): which of the K·P numbers that are picked are those of each place.
        self.uses = np.full((int(rank.max(initial=0)) + 1, count), flat.size)
        self.uses[rank, places] = order
        #: Whether each number is one of x, times a factor.
        self.each = weight.size == 1 and np.array_equal(flat, np.arange(count))
        #: More than the products and sums that one number takes, forward or back.
        self.terms = 16 + sum(weight.shape) + len(self.uses)
        #: Whether it moves numbers as they are.
        self.moves = weight.size == 1 and np.all((weight * scale == 1) & (self.size == 0))

    def forward(self, x: Array, weight: Any, scale: Any) -> Array:
        """Return scale * (weight x[index]) of columns x."""
        picked = np.concatenate([x, 0 * x[:1]])[self.index]
        product = weight @ picked.reshape(len(self.index), -1)
        return np.asarray(product.reshape(-1, x.shape[1]) * scale)

    def apply(self, x: Array) -> Array:
        """Return the result of columns x."""
        return self.forward(x, self.weight, self.scale) + self.shift

    def back(self, a: Array) -> Array:
        """Return coefficients on x, of coefficients a on the result; zeros cost little."""
        if self.each:
            return np.asarray(a * (self.weight[0, 0] * self.scale))
        (one, many), columns = self.index.shape, a.shape[1]
        parts = (a * self.scale).reshape(-1, many, columns)
        met = np.flatnonzero(parts.any((0, 2)))  # few, where neurons see a part of an image
        rows = np.zeros((one * len(met) + 1, columns), a.dtype)
        rows[:-1] = (self.weight.T @ parts[:, met].reshape(len(parts), -1)).reshape(-1, columns)
        number = np.full((one, many), len(rows) - 1)
        number[:, met] = np.arange(len(rows) - 1).reshape(one, -1)
        uses = np.append(number, len(rows) - 1)[self.uses]
        there = np.flatnonzero((uses < len(rows) - 1).any(0))
        found = rows[uses[0, there]]
        for use in uses[1:]:
            found += rows[use[there]]
        total = np.zeros((uses.shape[1], columns), a.dtype)
        total[there] = found
        return total


class Node(NamedTuple):
    """A value of the network: of an affine map, a bend, or, without these, a ReLU.

    ``hull`` may narrow its interval: a function of ``operands`` that grows or falls on each side of
    0 in all of them at once.
    """

    result: str
    sources: Sequence[str]
    affine: Affine | None = None
    bend: Any = None
    operands: Sequence[str] = ()
    hull: Callable[..., Array] | None = None


class Network(NamedTuple):
    """Nodes in order, and how many numbers each of their values has."""

    numbers: Numbers
    input: str
    output: str
    nodes: list[Node]
    counts: dict[str, int]
    shape: tuple[int, ...]
    hash: str

    def values(self, image: Array) -> list[Array]:
        """Return the inputs of all ReLUs and bends on an image, in order, and its logits."""
        values, found = {self.input: self.numbers.of(image).reshape(-1, 1)}, []
        for node in self.nodes:
            x = np.concatenate([values[source] for source in node.sources])
            if node.affine is not None:
                values[node.result] = node.affine.apply(x)
                continue
            found.append(x)
            values[node.result] = np.maximum(x, 0) if node.bend is None else node.bend.value(x)
        return [*found, values[self.output]]
