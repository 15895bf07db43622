"""ε: one number, or a map with the ε of every pixel, channel or feature, zero where none moves."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from .checks import Scalar, check_fits, check_radius


def check_shared_radius(eps: Scalar, x: Tensor) -> Scalar:
    """Return ε as a float, or as a float64 map shaped as one input.

    Certificates take one ε for all inputs: groups share a perturbation.

    Raises:
        InputError: It is negative, NaN or infinite, or does not broadcast to one input.
    """
    eps = check_radius(eps, "ε")
    if not isinstance(eps, Tensor):
        return eps
    check_fits(eps, x[:1], "ε")
    whole = eps.detach().to(x.device, torch.float64).expand(1, *x.shape[1:])[0].contiguous()
    first = whole.flatten()[0]
    return float(first) if bool((whole == first).all()) else whole


def as_type(eps: Scalar, x: Tensor) -> Scalar:
    """Return ε on the device of inputs, and a map in their type.

    A number stays one, and a tensor of one number keeps its type: both round where they meet x.
    """
    if not isinstance(eps, Tensor):
        return eps
    return eps.to(x) if eps.ndim else eps.to(x.device)


def largest(eps: Scalar) -> float:
    """Return the largest ε of any pixel."""
    return float(eps.max()) if isinstance(eps, Tensor) else float(eps)


def largest_as_tensor(eps: Scalar) -> Tensor:
    """Return the largest ε of any pixel, rounded to float32, as a float64 without dimensions.

    Unlike :func:`largest` it makes nobody wait for a GPU.
    """
    return torch.as_tensor(eps).to(torch.float32).max().double()


def map_hash(eps: Scalar) -> str:
    """Return the SHA-256 of a map's values, as float64 in row-major order; empty for a number."""
    if not isinstance(eps, Tensor):
        return ""
    values = eps.detach().cpu().double().contiguous().numpy()
    return hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()


def same_radius(a: Scalar, b: Scalar) -> bool:
    """Return whether two ε, as :func:`check_shared_radius` returns them, are equal."""
    return largest(a) == largest(b) and map_hash(a) == map_hash(b)


def radius_words(eps: Scalar, digits: int = 9) -> str:
    """Return ε in words."""
    if not isinstance(eps, Tensor):
        return f"{eps:.{digits}g}"
    return f"a map up to {largest(eps):.{digits}g} (SHA-256 {map_hash(eps)[:8]})"


def radius_entries(eps: Scalar) -> dict[str, Any]:
    """Return ε as entries of a record: the number, or a map's largest value and its hash."""
    hashed = map_hash(eps)
    return {"eps": largest(eps), "eps_map": hashed} if hashed else {"eps": eps}
