"""CROWN bounds of ReLU inputs by the dual engine, for the neurons that IBP leaves unstable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...bounds.box import Ball
from ...bounds.deadline import time_is_over
from ...bounds.segments import Segment
from .ascent import ascend_dual
from .dual import DualBound
from .relaxation import Bounds, Relaxation
from .rounding import Sizes


def rounded(bounds: Bounds, dtype: torch.dtype) -> Bounds:
    """Return the bounds in another precision, rounded outward where it does not hold them."""

    def below(ends: Tensor) -> Tensor:
        found = ends.to(dtype)
        lower = torch.nextafter(found, torch.full_like(found, -torch.inf))
        return torch.where(found > ends, lower, found)

    return [(below(lower), -below(-upper)) for lower, upper in bounds]


def tighten(
    segments: Sequence[Segment],
    x: Tensor,
    ball: Ball,
    bounds: Bounds,
    *,
    rows: int = 256,
    exact: Sequence[Segment] | None = None,
    steps: int = 0,
) -> Bounds:
    """Return CROWN's bounds of every ReLU's input, or α-CROWN's, cut with ``bounds``.

    Only neurons unstable in ``bounds`` are bounded, and those of curves, in network order: each
    layer's relaxation rests on the bounds of the layers before it that are tightened already. At a
    deadline (:mod:`...bounds.deadline`) the neurons that were not reached keep their bounds.

    Args:
        segments: The network's affine maps between ReLUs.
        x: (n, ...) inputs.
        ball: The perturbations.
        bounds: Sound bounds of every ReLU's input, such as IBP's.
        rows: Neurons bounded at once.
        exact: The affine maps in float64, to compute the bounds by; None for those of ``x``.
        steps: Of α-CROWN for each bound; 0 for CROWN.
    """
    result: Bounds = []
    sizes, found_sizes = Sizes(segments, x, ball), []
    curves = [segment.curve for segment in segments]
    for k, (low, up) in enumerate(bounds):
        found_sizes.append(sizes.of(k))
        lower, upper = low.flatten(1).clone(), up.flatten(1).clone()
        wanted = (lower < 0) & (upper > 0) if curves[k] is None else lower < upper
        images, neurons = wanted.nonzero(as_tuple=True)
        exact_already = k == 0 and not segments[0].mixes  # one affine layer, by IBP
        if len(images) and not exact_already:
            relaxation = Relaxation.of(
                result if exact is None else rounded(result, x.dtype), found_sizes, curves
            )
            for part in torch.arange(len(images), device=x.device).split(rows):
                if time_is_over():
                    break
                i, j = images[part], neurons[part]
                mine = relaxation.rows(i)
                for sign, side in ((1.0, lower), (-1.0, upper)):
                    c = x.new_zeros(len(i), lower.shape[1])
                    c[torch.arange(len(i)), j] = sign
                    dual = DualBound(segments[: k + 1], mine, x[i], c, ball)
                    found = sign * _lower(dual, exact and exact[: k + 1], steps)
                    # fmax and fmin keep the bound that is there where the new one is NaN
                    tighter = torch.fmax if sign > 0 else torch.fmin
                    side[i, j] = tighter(side[i, j], found)
        result.append((lower.view_as(low), upper.view_as(up)))
        sizes.bounded(k, *result[k])
    return result


def _lower(dual: DualBound, exact: Sequence[Segment] | None, steps: int) -> Tensor:
    """Return the lower bound (R,), in float64 where the segments are."""
    parameter = dual.start()
    if steps and parameter.numel():  # without neurons before it, a bound has none
        parameter = ascend_dual(dual, steps).parameter
    if exact is not None:
        every = torch.arange(len(dual.x), device=dual.x.device)
        dual = dual.rows(every, exact, torch.float64)
    return dual(parameter.to(dual.x.dtype), dual.x.new_ones(len(dual.x), 1)).value
