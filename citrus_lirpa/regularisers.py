"""Regularisers of IBP training (Shi et al. 2021, section 4.2), and L1."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .boxes import Box

#: Ratios above this share need no correction.
TOLERANCE = 0.5
_TINY = 1e-12


def shi_regulariser(inputs: Box, preactivations: list[Box]) -> Tensor:
    """Tightness plus ReLU-balance term, averaged over the ReLUs; a scalar >= 0.

    inputs: the boxes as the first layer sees them (normalised); preactivations: the
    bounds before every ReLU on these boxes, with graph. Multiply by λ₀(1 - ε/ε_max).
    """
    terms = [_tightness(inputs.radius.mean(), box) + _balance(box) for box in preactivations]
    return torch.stack(terms).mean() if terms else inputs.lower.new_zeros(())


def _tightness(input_radius: Tensor, box: Box) -> Tensor:
    """relu(tol - r₀/r)/tol: bounds should not be wider than 1/tol times the input's."""
    share = input_radius / box.radius.mean().clamp(min=_TINY)
    return torch.relu(TOLERANCE - share) / TOLERANCE


def _balance(box: Box) -> Tensor:
    """Active and inactive ReLUs should weigh alike, in mean and in variance of centres."""
    centre = box.centre
    active, inactive = box.lower > 0, box.upper < 0
    spread = (centre - centre.mean()) ** 2
    mean_ratio = (centre * active).mean() / -(centre * inactive).mean()
    spread_ratio = (spread * active).sum() / (spread * inactive).sum()
    if not bool(torch.isfinite(mean_ratio + spread_ratio)):  # no inactive ReLU: undefined
        return torch.zeros_like(mean_ratio).detach()
    return _ratio_penalty(mean_ratio) + _ratio_penalty(spread_ratio)


def _ratio_penalty(ratio: Tensor) -> Tensor:
    """relu(tol - min(ρ, 1/ρ))/tol."""
    ratio = torch.minimum(ratio, 1 / ratio.clamp(min=_TINY))
    return torch.relu(TOLERANCE - ratio) / TOLERANCE


def l1_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Σ|w| over all weights of two or more dimensions."""
    return torch.stack([p.abs().sum() for p in parameters if p.ndim > 1]).sum()
