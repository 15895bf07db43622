"""Curves: smooth functions of single values, by what lines above and below them must know.

On a stretch where the slope of f does not fall, f is convex: all its tangents lie below it. Where
the slope does not rise, f is concave: all its tangents lie above it. Beyond its stretches of one
kind, a curve is of the other kind. The curves themselves are in :mod:`.curve_table`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .box import Box

#: What float64 may be off by in a curve's value or slope, in its units. That is 64 units in the
#: last place: exp, log, powers, tanh and erf are off by less than 4 of their own, and no value or
#: slope takes more than a dozen further operations.
ERROR = 2.0**-46
#: What is added to it where numbers are so small that float64 has fewer digits for them.
TINY = 1e-300

#: The ends of a stretch.
Stretch = tuple[float, float]
_ALL = (-math.inf, math.inf)


class Unit(NamedTuple):
    """The unit of ERROR for the values of a curve: constant + linear |x| + |f(x)|."""

    constant: float
    linear: float


class Domain(NamedTuple):
    """Where a curve is defined.

    Attributes:
        contains: Whether it is on all of an interval.
        expected: What its arguments must be.
        instead: What to write where they may be something else.
    """

    contains: Callable[[Box], Tensor]
    expected: str
    instead: str


@dataclass(frozen=True)
class Curve:
    """A function f of single values.

    Attributes:
        function: f, in the type of its argument.
        slope: Its derivative, in float64. At a kink it is one that tangents on both sides may
            have, each as far as its own stretch goes.
        convex: Where f is convex, left to right. The first of two begins at -inf, or is apart
            from the other.
        concave: Where f is concave, likewise. Where it is defined, f is convex or concave.
        steepest: Two numbers between which all slopes are.
        lowest: Where f has its minimum, before which it falls and behind which it grows; None if
            it only grows or only falls.
        drop: By how much, at most, networks compute less than f on an interval; None for nothing.
        unit: The unit of ERROR for values in float64.
        domain: Where f is defined; None for everywhere.
    """

    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    convex: tuple[Stretch, ...]
    concave: tuple[Stretch, ...]
    steepest: tuple[float, float] = _ALL
    lowest: float | None = None
    drop: Callable[[Box], Tensor] | None = None
    unit: Unit = Unit(1.0, 1.0)
    domain: Domain | None = None

    def error(self, x: Tensor, value: Tensor) -> Tensor:
        """Return what may be wrong with values in float64, |x| and |f(x)| being at most these."""
        units = self.unit.constant + self.unit.linear * x + value
        return ERROR * units + TINY

    def hull(self, box: Box) -> Box:
        """Return the interval of the values on an interval, in float64 and rounded outward.

        It is NaN where the curve is not defined on all of the interval.
        """
        ends = [(self.function(end), end.abs()) for end in box]
        lows = [value - self.error(x, value.abs()) for value, x in ends]
        highs = [value + self.error(x, value.abs()) for value, x in ends]
        low, high = torch.minimum(*lows), torch.maximum(*highs)
        if self.drop is not None:
            low = low - self.drop(box)
        if self.lowest is not None:
            bottom = torch.full_like(low, self.lowest)
            value = self.function(bottom)
            inside = (box.lower <= bottom) & (bottom <= box.upper)
            least = value - self.error(bottom.abs(), value.abs())
            low = torch.where(inside, torch.minimum(low, least), low)
        if self.domain is None:
            return Box(low, high)
        outside = ~self.domain.contains(box)
        return Box(low.masked_fill(outside, math.nan), high.masked_fill(outside, math.nan))


class Product:
    """The product of two values, which are stacked: (n, 2, ...) to (n, ...)."""

    domain = None
    #: A difference of two products is no slope times a difference.
    steepest = _ALL

    def function(self, x: Tensor) -> Tensor:
        """Return the products."""
        return x[:, 0] * x[:, 1]

    def hull(self, box: Box) -> Box:
        """Return the interval of the products on a box, in float64 and rounded outward."""
        (low_a, low_b), (high_a, high_b) = (end.unbind(1) for end in box)
        corners = torch.stack([a * b for a in (low_a, high_a) for b in (low_b, high_b)])
        low, high = corners.amin(0), corners.amax(0)
        return Box(low - ERROR * low.abs() - TINY, high + ERROR * high.abs() + TINY)


PRODUCT = Product()
#: What may follow an affine map in place of ReLU.
Bend = Curve | Product
