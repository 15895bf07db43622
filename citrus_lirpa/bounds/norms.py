"""The norm that perturbations are measured in: ‖u‖∞ <= ε, or ‖u‖₂ <= ε over all pixels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import expect, require
from .checks import Scalar

#: The norms, the usual one first.
NORMS = (math.inf, 2.0)
#: By how much projections stay inside a ball, so that rounding does not leave it.
_INSIDE = 1e-6


def check_norm(norm: float, eps: Scalar = 0.0) -> float:
    """Return a norm as a float; raise InputError unless it is inf, or 2 with one number as ε."""
    expect(not isinstance(norm, bool) and norm in NORMS, "norm", norm, "inf or 2")
    one = norm != 2 or not isinstance(eps, Tensor) or eps.numel() == 1
    require(one, "a map of ε is for norm inf; with norm 2 give one ε")
    return float(norm)


def norm_entries(norm: float) -> dict[str, Any]:
    """Return a norm as entries of a record: none for ∞, which records need not name."""
    return {} if norm == math.inf else {"norm": norm}


def norm_words(norm: float | None) -> str:
    """Return what follows an ε in words: nothing for ∞."""
    return " (ℓ2)" if norm == 2 else ""


def longest(u: Tensor, norm: float) -> float:
    """Return the largest norm of perturbations (N, ...)."""
    return float(u.flatten(1).norm(norm, dim=1).max())


def shortened(v: Tensor, radius: Scalar) -> Tensor:
    """Return vectors (N, ...) cut to an ℓ2 norm of ``radius``."""
    # torch divides a number by a tensor so; a tensor of one number would be rounded otherwise
    scaled, power = _scaled(v)
    lengths = _at_least_tiny(power * _lengths(scaled))
    return v * (lengths.reciprocal() * radius).clamp(max=1)


def within_ball(v: Tensor, radius: Scalar) -> Tensor:
    """Return vectors (N, ...) cut to an ℓ2 norm that rounding leaves below ``radius``."""
    return shortened(v, (1 - _INSIDE) * radius)


def unit_vectors(v: Tensor) -> Tensor:
    """Return vectors (N, ...) of ℓ2 norm one; zero stays zero."""
    scaled, _ = _scaled(v)
    return scaled / _at_least_tiny(_lengths(scaled))


def _lengths(v: Tensor) -> Tensor:
    """Return ℓ2 norms (N, 1, ...) of vectors (N, ...)."""
    return v.flatten(1).norm(dim=1).view(-1, *[1] * (v.ndim - 1))


def _scaled(v: Tensor) -> tuple[Tensor, Tensor]:
    """Return vectors (N, ...) over powers of two, and these (N, 1, ...).

    The largest number of each is about 1 then: squares of tiny ones would vanish, and those of
    huge ones be infinite. Powers of two round nothing.
    """
    largest = _at_least_tiny(v.abs().flatten(1).amax(1)).view(-1, *[1] * (v.ndim - 1))
    power = largest / (2 * torch.frexp(largest).mantissa)
    return v / power, power


def _at_least_tiny(v: Tensor) -> Tensor:
    return v.clamp(min=torch.finfo(v.dtype).tiny)
