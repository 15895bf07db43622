"""Lines above and below curves: tangents and chords.

For any slope s, the line s x + m is below f on [l, u] where m is at most the least of
g(x) = f(x) - s x there. Where f is convex, on [a, b], so is g: for any t in [a, b]

    g(x) >= g(t) - max(0, -g'(t)) (b - t) - max(0, g'(t)) (t - a),

and elsewhere f is concave, so that g is least at an end of [l, u] or of [a, b]. So m is the least
of three numbers, less what they are off by in float64. With s = f'(t), t being where the line is
to touch f, g'(t) is zero up to the rounding of s. Lines above f are lines below -f.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ...bounds.box import Box
from ...bounds.curves import ERROR, Curve, Stretch

#: Halvings of a stretch in the search for the tangents through the ends of an interval.
_HALVINGS = 8


class Line(NamedTuple):
    """Lines of neurons.

    Attributes:
        slope: (R, M) in the type of the bounds.
        offset: (R, M) their values at zero, in float64.
        touch: (R, M) where they touch the curve.
    """

    slope: Tensor
    offset: Tensor
    touch: Tensor

    def back(self, a: Tensor) -> Tensor:
        """Return coefficients on the inputs, from those on the outputs (R, M)."""
        return a * self.slope

    def value(self, z: Tensor) -> Tensor:
        """Return the lines' values (R, M) at inputs."""
        return z * self.slope + self.offset.to(z.dtype)

    def turn(self, a: Tensor, z: Tensor) -> Tensor:
        """Return what the bound grows by where lines turn, up to a positive factor.

        A line turns about the place where it touches; the parameter grows with that place. The
        factor is the second derivative there. ``a`` are coefficients on the outputs, ``z`` inputs,
        both (R, M).
        """
        return a.abs() * (z - self.touch)


class _Places(NamedTuple):
    """Where lines on one side of a curve may touch it, each (n, M).

    Attributes:
        begin: a, the first place of the stretch where tangents are on the right side.
        end: b, the last one.
        low: The first place in it whose tangent is on the right side at l and u too.
        start: The one nearest to the middle of the interval.
        high: The last one.
        chord: The slope of the line through both ends where there is no such tangent; else NaN.
        before: How long another such stretch is that begins at l.
    """

    begin: Tensor
    end: Tensor
    low: Tensor
    start: Tensor
    high: Tensor
    chord: Tensor
    before: Tensor


@dataclass(frozen=True, eq=False)
class Curved:
    """Neurons of a layer that one curve follows, within bounds.

    Args:
        curve: The curve.
        lower: (n, M) lower bounds of its inputs, in float64.
        upper: (n, M) likewise.
        source: Other neurons, and which of their rows these are, by whose lines they go.
    """

    curve: Curve
    lower: Tensor
    upper: Tensor
    source: tuple[Curved, Tensor] | None = None

    @staticmethod
    def of(curve: Curve, lower: Tensor, upper: Tensor) -> Curved:
        """Return the neurons, with NaN for bounds where the curve is not defined."""
        if curve.domain is not None:
            outside = ~curve.domain.contains(Box(lower, upper))
            lower, upper = (end.masked_fill(outside, torch.nan) for end in (lower, upper))
        return Curved(curve, lower, upper)

    @cached_property
    def places(self) -> Tensor:
        """(7, 2, n, M) of lines below and of lines above, as :class:`_Places` has them."""
        if self.source is not None:
            return self.source[0].places[:, :, self.source[1]]
        curve, left, right = self.curve, self.lower, self.upper
        sides = zip(*map(self._stretch, (curve.convex, curve.concave)), strict=True)
        begin, end, before = map(torch.stack, sides)
        low, high, none = self._fitting(begin, end)
        width = (right - left).clamp(min=torch.finfo(left.dtype).tiny)
        chord = ((self.ends[1] - self.ends[0]) / width).clamp(*curve.steepest)
        chord = torch.where(right > left, chord, curve.slope(left))
        steep = _signs(left) * (curve.slope(begin) - chord) >= 0
        nearest = torch.where(steep, begin, end)
        low, high = torch.where(none, nearest, low), torch.where(none, nearest, high)
        start = torch.minimum(torch.maximum((left + right) / 2, low), high)
        chord = torch.where(none, chord, torch.nan)
        return torch.stack(_Places(begin, end, low, start, high, chord, before))

    @cached_property
    def ends(self) -> Tensor:
        """(2, n, M) values of the curve at both bounds."""
        if self.source is not None:
            return self.source[0].ends[:, self.source[1]]
        return torch.stack([self.curve.function(self.lower), self.curve.function(self.upper)])

    @cached_property
    def _crown(self) -> dict[torch.dtype, Line]:
        """What :meth:`crown` has returned, by type."""
        return {}

    def rows(self, which: Tensor) -> Curved:
        """Return the neurons of some images."""
        source = (self, which) if self.source is None else (self.source[0], self.source[1][which])
        return Curved(self.curve, self.lower[which], self.upper[which], source)

    def crown(self, dtype: torch.dtype) -> Line:
        """Return CROWN's lines below and above, each (2, n, M)."""
        if dtype not in self._crown:
            self._crown[dtype] = self._lines(torch.full_like(self.lower, 0.5), dtype)
        return self._crown[dtype]

    def line(self, parameter: Tensor, below: Tensor, dtype: torch.dtype) -> Line:
        """Return lines, which are sound whatever the parameter.

        Args:
            parameter: (n, M) in [0, 1]: at 0.5 a line touches the curve nearest to the middle of
                the interval, at 0 and 1 at the first and the last place where that is of use.
            below: (n, M) whether the line is to be below the curve.
            dtype: The type of the slopes.
        """
        if self.source is not None and bool((parameter == 0.5).all()):
            whole, which = self.source
            columns = torch.arange(below.shape[1], device=below.device)
            at = (~below).long(), which.unsqueeze(1), columns
            return Line(*(part[at] for part in whole.crown(dtype)))
        places = torch.where(below, self.places[:, 0], self.places[:, 1])
        return self._line(parameter, places, torch.where(below, 1.0, -1.0).double(), dtype)

    def both(self, parameter: Tensor, dtype: torch.dtype) -> tuple[Line, Line]:
        """Return the lines below and above that ``line`` has for one parameter."""
        lines = self._lines(parameter, dtype)
        return Line(*(part[0] for part in lines)), Line(*(part[1] for part in lines))

    def stated(self, parameter: Tensor) -> Tensor:
        """Return (n, M, 4) slope and touch of the line below, then above, as proofs have them."""
        sides = self.both(parameter, torch.float64)
        return torch.stack([end for line in sides for end in (line.slope, line.touch)], -1)

    def _lines(self, parameter: Tensor, dtype: torch.dtype) -> Line:
        """Return the lines below and above, each (2, n, M)."""
        return self._line(parameter, self.places, _signs(self.lower), dtype)

    def _line(self, parameter: Tensor, places: Tensor, sign: Tensor, dtype: torch.dtype) -> Line:
        curve, left, right, at = self.curve, self.lower, self.upper, _Places(*places)
        p = 2 * parameter.double()
        up, down = at.low + p * (at.start - at.low), at.high - (2 - p) * (at.high - at.start)
        t = torch.where(p < 1, up, down).clamp(at.low, at.high)
        slope = curve.slope(t)
        s = torch.where(at.chord.isnan(), slope, at.chord).to(dtype)
        exact = s.double()
        excess = sign * (slope - exact)
        within = excess * (t - torch.where(excess > 0, at.begin, at.end))
        values = [*self.ends, curve.function(t)]
        at_left, at_right, at_t = (
            sign * (v - exact * x) for v, x in zip(values, (left, right, t), strict=True)
        )
        if len(curve.convex) > 1 or len(curve.concave) > 1:
            falls = (sign * (exact - curve.slope(left))).clamp(min=0)
            at_left = torch.where(at.before > 0, at_left - falls * at.before, at_left)
        least = torch.minimum(torch.minimum(at_left, at_right), at_t - within)
        farthest = torch.maximum(left.abs(), right.abs())
        largest = functools.reduce(torch.maximum, [v.abs() for v in values])
        turns = ERROR * (2 * (exact.abs() + slope.abs()) + curve.unit.linear) * farthest
        error = curve.error(farthest, largest) + turns
        if curve.drop is not None:
            error = error + torch.where(sign > 0, curve.drop(Box(left, right)), 0.0)
        return Line(s, sign * (least - error), t.to(dtype))

    def _stretch(self, stretches: Sequence[Stretch]) -> tuple[Tensor, Tensor, Tensor]:
        """Return begin, end and before of :class:`_Places` for lines on one side (n, M)."""
        left, right = self.lower, self.upper
        begin, end, before = left, left, torch.zeros_like(left)
        for first, last in stretches:
            here, there = left.clamp(min=first), right.clamp(max=last)
            meets = here < there
            before = torch.where(meets, end - begin, before)
            begin, end = torch.where(meets, here, begin), torch.where(meets, there, end)
        return begin, end, before

    def _fitting(self, begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return low and high of :class:`_Places`, and where there are none, each (2, n, M).

        All tangents fit where a stretch is the whole interval; elsewhere they are searched for.
        """
        low, high, none = begin.clone(), end.clone(), end <= begin
        part = ~none & ((begin > self.lower) | (end < self.upper))
        side, image, neuron = part.nonzero(as_tuple=True)
        sign = _signs(self.lower).flatten()[side]
        ends = torch.stack([self.lower[image, neuron], self.upper[image, neuron]])
        values = self.ends[:, image, neuron]

        def excess(t: Tensor) -> Tensor:
            """How far the tangents at t (2, k) are on the wrong side at both ends."""
            tangent = self.curve.function(t) + self.curve.slope(t) * (ends - t)
            return sign * (tangent - values)

        first, fits = _first(torch.stack([begin[part], end[part]]), excess)
        low[part], high[part] = first
        none[part] = (first[0] > first[1]) | ~fits.all(0)
        return low, high, none


def _signs(like: Tensor) -> Tensor:
    """Return (2, 1, 1): 1 for lines below, -1 for lines above."""
    return like.new_tensor([1.0, -1.0]).view(2, 1, 1)


def _first(near: Tensor, excess: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return the first places that fit on the way to the other end, and whether any does.

    Behind them all fit. What halvings leave is so short that ``excess`` is nearly straight there.

    Args:
        near: (2, k) where two searches begin, each of which ends where the other begins.
        excess: How far places are from fitting; none or negative where they fit.
    """
    far = near.flip(0)
    for _ in range(_HALVINGS if near.numel() else 0):
        middle = (near + far) / 2
        fit = excess(middle) <= 0
        near, far = torch.where(fit, near, middle), torch.where(fit, middle, far)
    at_near, at_far = excess(near), excess(far)
    fits = at_far <= 0
    zero = near + (far - near) * (at_near / (at_near - at_far))
    first = torch.where(at_near > 0, torch.where(fits & zero.isfinite(), zero, far), near)
    return first, fits
