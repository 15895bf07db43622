"""CROWN bounds of ReLU inputs, for the neurons that IBP leaves unstable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...bounds.box import Ball
from ...bounds.curves import Product
from ...bounds.deadline import time_is_over
from ...bounds.segments import Segment
from .ascent import ascend_dual
from .dual import DualBound
from .relaxation import Bent, Bounds, Relaxation, bent
from .rounding import Sizes, downward
from .windowed import Found, Windowed

#: The first step of α-CROWN, which takes few steps here, and that where there are curves.
_RATE, _CURVE_RATE = 0.3, 0.06


def rounded(bounds: Bounds, dtype: torch.dtype) -> Bounds:
    """Return the bounds in another precision, rounded outward where it does not hold them."""
    return [(downward(lower, dtype), -downward(-upper, dtype)) for lower, upper in bounds]


class Tightened(NamedTuple):
    """What :func:`tighten` has found.

    Attributes:
        bounds: (lower, upper), each (n, ...), of every ReLU's input, in the type that they were
            computed in.
        relaxation: What they give in the type of the inputs.
    """

    bounds: Bounds
    relaxation: Relaxation


def tighten(
    segments: Sequence[Segment],
    x: Tensor,
    ball: Ball,
    bounds: Bounds,
    *,
    rows: int = 256,
    exact: Sequence[Segment] | None = None,
    steps: int = 0,
    both: bool = False,
) -> Tightened:
    """Return CROWN's bounds of every ReLU's input, or α-CROWN's, cut with ``bounds``.

    Only neurons unstable in ``bounds`` are bounded, and those of curves, in network order: each
    layer's relaxation rests on the bounds of the layers before it that are tightened already. At a
    deadline (:mod:`...bounds.deadline`) the neurons that were not reached keep their bounds.

    Args:
        segments: The network's affine maps between ReLUs.
        x: (n, ...) inputs.
        ball: The perturbations.
        bounds: Sound bounds of every ReLU's input, such as IBP's.
        rows: Neurons bounded at once where a bound has several steps, or there are products.
        exact: The affine maps in float64, to compute the bounds by; None for those of ``x``.
        steps: Of α-CROWN for each bound; 0 for CROWN.
        both: Whether a ReLU that one bound shows to be certain gets CROWN's other one too, not
            only one for what rounding is charged. Proofs state both.
    """
    sizer = Sizes(segments, x, ball)
    curved = [segment.curve for segment in segments]
    layers: Windowed | _WholeMaps
    if steps or any(isinstance(curve, Product) for curve in curved):
        layers = _WholeMaps(segments, x, ball, rows, exact, steps)
    else:
        given = (segments, x) if exact is None else (exact, x.double())
        layers = Windowed(*given, ball, both=both)
    result: Bounds = []
    sizes: list[Tensor] = []
    neurons: list[Bent | None] = []
    for k, (low, up) in enumerate(bounds):
        sizes.append(sizer.of(k))
        size = sizes[k]
        curve = curved[k]
        wanted = low < up if curve else (low < 0) & (up > 0)
        if k == 0 and not segments[0].mixes:  # one affine layer: IBP is exact
            wanted = torch.zeros_like(wanted)
        result.append(_cut(low, up, layers.bounds(k, wanted, size)))
        below, above = rounded(result[k:], x.dtype)[0]
        neurons.append(None if curve is None else bent(curve, below.flatten(1), above.flatten(1)))
        sizer.bounded(k, below, above)
        if k + 1 < len(bounds):
            layers.add(k, below, above, size, neurons[k])
    sizes.append(sizer.of(len(bounds)))
    return Tightened(result, Relaxation.of(rounded(result, x.dtype), sizes, neurons))


def _cut(low: Tensor, up: Tensor, parts: Iterator[Found]) -> tuple[Tensor, Tensor]:
    """Return bounds (n, ...) cut with what is found until the deadline."""
    lower, upper = low.flatten(1).clone(), up.flatten(1).clone()
    while not time_is_over() and (part := next(parts, None)):
        i, j, below, above = part
        # fmax and fmin keep the bound that is there where the new one is NaN
        lower[i, j] = torch.fmax(lower[i, j], downward(below, lower.dtype))
        upper[i, j] = torch.fmin(upper[i, j], -downward(-above, upper.dtype))
    return lower.view_as(low), upper.view_as(up)


class _WholeMaps:
    """CROWN or α-CROWN of any network, with coefficients on whole maps; used as Windowed is."""

    def __init__(
        self,
        segments: Sequence[Segment],
        x: Tensor,
        ball: Ball,
        rows: int,
        exact: Sequence[Segment] | None,
        steps: int,
    ):
        self.segments, self.x, self.ball, self.rows = segments, x, ball, rows
        self.exact, self.steps = exact, steps
        curved = any(segment.curve for segment in segments)
        self.rate = _CURVE_RATE if curved else _RATE
        self._known: Bounds = []
        self._sizes: list[Tensor] = []
        self._neurons: list[Bent | None] = []

    def add(
        self, k: int, lower: Tensor, upper: Tensor, size: Tensor, neurons: Bent | None = None
    ) -> None:
        self._known.append((lower, upper))
        self._neurons.append(neurons)

    def bounds(self, k: int, wanted: Tensor, size: Tensor) -> Iterator[Found]:
        self._sizes.append(size)
        return self._found(k, wanted)

    def _found(self, k: int, wanted: Tensor) -> Iterator[Found]:
        if not wanted.any():
            return
        relaxation = Relaxation.of(self._known, self._sizes, self._neurons)
        parts = [part.split(self.rows) for part in wanted.flatten(1).nonzero(as_tuple=True)]
        for i, j in zip(*parts, strict=True):
            ends = []
            for sign in (1.0, -1.0):
                c = self.x.new_zeros(len(i), wanted[0].numel())
                c[torch.arange(len(i)), j] = sign
                here = self.segments[: k + 1], relaxation.rows(i), self.x[i], c, self.ball
                exact = self.exact and self.exact[: k + 1]
                ends.append(sign * self._lower(DualBound(*here), exact))
            yield i, j, *ends

    def _lower(self, dual: DualBound, exact: Sequence[Segment] | None) -> Tensor:
        """Return the lower bound (R,), in float64 where the segments are."""
        parameter = dual.start()
        if self.steps and parameter.numel():  # without neurons before it, a bound has none
            parameter = ascend_dual(dual, self.steps, rate=self.rate).parameter
        if exact is not None:
            dual = dual.in_float64(exact)
        return dual(parameter.to(dual.x.dtype), dual.x.new_ones(len(dual.x), 1)).value
