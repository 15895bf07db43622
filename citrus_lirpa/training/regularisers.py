"""Regularisers of IBP training (Shi et al. 2021, section 4.2), and L1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..bounds.box import Box, Interval
from ..bounds.checks import check_tensor
from ..errors import InputError

#: Ratios above this share need no correction.
TOLERANCE = 0.5
_TINY = 1e-12


def shi_regulariser(inputs: Box | Interval, preactivations: Sequence[Box | Interval]) -> Tensor:
    """Tightness plus ReLU-balance term, averaged over the ReLUs; a scalar >= 0.

    inputs: the boxes as the first layer sees them (normalised); preactivations: the
    bounds before every ReLU on these boxes, with graph. Multiply by λ₀(1 - ε/ε_max).
    """
    if not all(isinstance(box, (Box, Interval)) for box in (inputs, *preactivations)):
        raise InputError("regularisers take a Box or Interval, and a list of them: bounds of a net")
    for ends in (inputs, *preactivations):
        for end in ends:
            check_tensor(end, "a bound")
        if ends[0].shape != ends[1].shape:
            raise InputError(f"a box has ends {tuple(ends[0].shape)} and {tuple(ends[1].shape)}")
    if not preactivations:
        return inputs.centre.new_zeros(())
    width = inputs.radius.mean()
    terms = [_tightness(width, box.radius.mean()) + _balance(box) for box in preactivations]
    return torch.stack(terms).mean()


def _tightness(input_radius: Tensor, radius: Tensor) -> Tensor:
    """relu(tol - r₀/r)/tol: bounds should not be wider than 1/tol times the input's."""
    return torch.relu(TOLERANCE - input_radius / radius.clamp(min=_TINY)) / TOLERANCE


def _balance(box: Box | Interval) -> Tensor:
    """Active and inactive ReLUs should weigh alike, in mean and in variance of centres."""
    active, inactive, active_spread, inactive_spread = _Sums.apply(box.centre, box.radius)
    defined = (inactive < 0) & (inactive_spread > 0)  # else no ReLU is inactive
    # a second choice keeps 0/0 out of the gradient of the first
    mean_ratio = active / torch.where(defined, -inactive, 1.0)
    spread_ratio = active_spread / torch.where(defined, inactive_spread, 1.0)
    both = _ratio_penalty(mean_ratio) + _ratio_penalty(spread_ratio)
    return torch.where(defined, both, 0.0)


class _Sums(torch.autograd.Function):
    """Of boxes around ReLU inputs: Σ centre and Σ (centre - mean)² over the active ReLUs (lower
    end > 0) and over the inactive ones (upper end < 0): two sums, then two sums of squares.

    In few passes over the values, which are many; differentiable once.
    """

    @staticmethod
    def forward(ctx: Any, centre: Tensor, radius: Tensor) -> tuple[Tensor, ...]:
        mean = centre.mean()
        active, inactive = centre > radius, centre < -radius
        shifted, zero = centre - mean, centre.new_zeros(())
        parts = [torch.where(mask, shifted, zero) for mask in (active, inactive)]
        totals = [part.sum() for part in parts]
        ctx.save_for_backward(active, inactive, *parts, *totals)
        sums = (totals[0] + mean * active.sum(), totals[1] + mean * inactive.sum())
        return *sums, *(torch.linalg.vector_norm(part).square() for part in parts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *to: Tensor) -> tuple[Tensor, None]:
        active, inactive, above, below, active_total, inactive_total = ctx.saved_tensors
        to_active, to_inactive, to_above, to_below = to
        gradient = torch.where(active, to_active, 0.0).addcmul_(above, 2 * to_above)
        gradient += torch.where(inactive, to_inactive, 0.0).addcmul_(below, 2 * to_below)
        through_mean = 2 * (to_above * active_total + to_below * inactive_total)
        return gradient - through_mean / gradient.numel(), None


def _ratio_penalty(ratio: Tensor) -> Tensor:
    """relu(tol - min(ρ, 1/ρ))/tol."""
    ratio = torch.minimum(ratio, 1 / ratio.clamp(min=_TINY))
    return torch.relu(TOLERANCE - ratio) / TOLERANCE


def l1_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Σ|w| over all weights of two or more dimensions."""
    return torch.stack([torch.linalg.vector_norm(p, 1) for p in parameters if p.ndim > 1]).sum()
