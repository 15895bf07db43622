"""Products of two values, and by what planes they are bounded, after McCormick.

The plane p x + q y + m is below x y on a box if m is at most the least of x y - p x - q y there.
That is (x - q) (y - p) - p q, linear in x and in y, so that it is least at a corner. Planes above
x y are planes below -x y.
"""

from __future__ import annotations

import numpy as np

from .network import Array, Numbers


class Product:
    """The products of n values with n others, which stand below them in a column."""

    def value(self, x: Array) -> Array:
        """Return the products."""
        first, second = np.split(x, 2)
        return np.asarray(first * second)

    def hull(self, numbers: Numbers, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return the ends of the products on boxes: those at corners."""
        found = np.stack([x * y for x, y in _corners(lower, upper)])
        low, up = numbers.out(found.min(0), found.max(0))
        return low - numbers.tiny, up + numbers.tiny

    def lines(
        self, numbers: Numbers, stated: Array, lower: Array, upper: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Return slopes (2n, R) and offsets (n, R) of planes below, then of planes above.

        ``stated`` (4, n, R) has slopes p and q of planes below, then above; intervals are (2n, 1).
        """
        below, above = numbers.of(stated[:2]), numbers.of(stated[2:])
        low = _least(1, numbers, below, lower, upper)
        high = -_least(-1, numbers, above, lower, upper)
        return np.concatenate(below), low, np.concatenate(above), high


def _corners(lower: Array, upper: Array) -> list[tuple[Array, Array]]:
    """Return the corners of boxes."""
    (low_x, low_y), (high_x, high_y) = np.split(lower, 2), np.split(upper, 2)
    return [(x, y) for x in (low_x, high_x) for y in (low_y, high_y)]


def _least(sign: int, numbers: Numbers, slopes: Array, lower: Array, upper: Array) -> Array:
    """Return what x y - p x - q y, or for sign -1 its negative, is at least."""
    p, q = slopes
    found = []
    for x, y in _corners(lower, upper):
        size = abs(x * y) + abs(p * x) + abs(q * y)
        found.append(sign * (x * y - p * x - q * y) - (4 * numbers.unit * size + numbers.tiny))
    return np.asarray(np.minimum.reduce(found))
