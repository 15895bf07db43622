"""Regularisers of IBP training, and L1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..bounds.box import Box, Interval
from ..bounds.checks import check_tensor
from ..bounds.elementwise import by_parts, row_parts
from ..errors import InputError

#: Ratios above this share cost nothing.
TOLERANCE = 0.5
_TINY = 1e-12


def shi_regulariser(inputs: Box | Interval, preactivations: Sequence[Box | Interval]) -> Tensor:
    """Compute the sum of tightness and ReLU-balance terms, as a mean over the ReLUs.

    Multiply it by λ₀(1 - ε/ε_max).

    Source: Shi et al. 2021, Fast Certified Robust Training with Short Warmup, section 4.2.

    Args:
        inputs: The boxes as the first layer sees them (normalised).
        preactivations: The bounds before every ReLU on these boxes, with graph.

    Returns:
        A scalar >= 0; 0 without ReLUs.

    Raises:
        InputError: These are no bounds.
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
    # not mean(): its gradients are as large as the layers, and backward makes all of them at once
    means = [box.radius.sum() / box.radius.numel() for box in preactivations]
    terms = [
        _tightness(width, mean) + _balance(box)
        for mean, box in zip(means, preactivations, strict=True)
    ]
    return torch.stack(terms).mean()


def _tightness(input_radius: Tensor, radius: Tensor) -> Tensor:
    """relu(tol - r₀/r)/tol: bounds should be at most 1/tol times as wide as the inputs."""
    return torch.relu(TOLERANCE - input_radius / radius.clamp(min=_TINY)) / TOLERANCE


def _balance(box: Box | Interval) -> Tensor:
    """Active and inactive ReLUs should weigh alike, in mean and in variance of centres."""
    active, inactive, active_spread, inactive_spread = _Sums.apply(box.centre, box.radius)
    defined = (inactive < 0) & (inactive_spread > 0)  # otherwise no ReLU is inactive
    # a second choice keeps 0/0 out of the gradient of the first
    mean_ratio = active / torch.where(defined, -inactive, 1.0)
    spread_ratio = active_spread / torch.where(defined, inactive_spread, 1.0)
    both = _ratio_penalty(mean_ratio) + _ratio_penalty(spread_ratio)
    return torch.where(defined, both, 0.0)


class _Sums(torch.autograd.Function):
    """Sums over the active ReLUs (lower end > 0) and over the inactive ones (upper end < 0).

    The four results are Σ centre of both, then Σ (centre - mean)² of both. The values are many,
    so it takes few passes over them. It can be differentiated once.
    """

    @staticmethod
    def forward(ctx: Any, centre: Tensor, radius: Tensor) -> tuple[Tensor, ...]:
        mean, found = centre.mean(), []
        for rows in row_parts(centre):
            for mask, part in _active_and_inactive(centre[rows], radius[rows], mean):
                found += [mask.sum(), part.sum(), torch.linalg.vector_norm(part).square()]
        counts, totals, spreads = torch.stack(found).view(-1, 2, 3).sum(0).unbind(1)
        # not what lies between: of all layers it is larger than the bounds
        ctx.save_for_backward(centre, radius, mean, totals)
        return *(totals + mean * counts), *spreads

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *to: Tensor) -> tuple[Tensor | None, ...]:
        centre, radius, mean, totals = ctx.saved_tensors
        through_mean = 2 * (to[2] * totals[0] + to[3] * totals[1]) / centre.numel()

        def gradient(centre: Tensor, radius: Tensor, out: Tensor | None = None) -> tuple[Tensor]:
            parts = _active_and_inactive(centre, radius, mean)
            slopes = zip(parts, to[:2], to[2:], strict=True)
            above, below = (
                torch.where(mask, to_sum, 0.0).addcmul_(part, 2 * to_spread)
                for (mask, part), to_sum, to_spread in slopes
            )
            return (torch.sub(above.add_(below), through_mean, out=out),)

        return *by_parts(gradient, 1, centre, radius), None


def _active_and_inactive(
    centre: Tensor, radius: Tensor, mean: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield which ReLUs are active, then which are inactive, each with centre - mean there."""
    for mask in (centre > radius, centre < -radius):
        yield mask, torch.where(mask, centre - mean, 0.0)


def _ratio_penalty(ratio: Tensor) -> Tensor:
    """relu(tol - min(ρ, 1/ρ))/tol."""
    ratio = torch.minimum(ratio, 1 / ratio.clamp(min=_TINY))
    return torch.relu(TOLERANCE - ratio) / TOLERANCE


def l1_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Sum |w| over all weights of two or more dimensions."""
    return torch.stack([torch.linalg.vector_norm(p, 1) for p in parameters if p.ndim > 1]).sum()
