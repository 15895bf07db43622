"""The cross-input boxes of CITRUS, and the inputs of a batch that are partners."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..bounds.box import PIXELS, Box
from ..bounds.checks import Range, Scalar, are_values_known, check_count, check_tensor
from ..errors import InputError, expect, expect_known, require


class Pairing(Protocol):
    """Chooses, for each input of a batch, the others whose perturbations it sees."""

    def __call__(self, batch: int) -> Tensor:
        """Return indices j (B, m); row i lists the partners of input i."""


@dataclass(frozen=True)
class Groups:
    """Groups of k consecutive inputs, with all ordered pairs within a group.

    A batch must be a multiple of k; the paper's own batches are of k inputs.

    Source: Xu & Singh 2024, Algorithm 1.

    Args:
        size: Inputs k of a group, at least 2.
        include_self: Pair each input with itself too (CITRUS+SI of the paper's Table 3).
    """

    size: int = 5
    include_self: bool = False

    def __post_init__(self) -> None:
        check_count(self.size, "group size", 2)

    def __call__(self, batch: int) -> Tensor:
        """Return the partners (B, k-1) of each input, or (B, k) with itself."""
        check_count(batch, "batch", 0)
        k = self.size
        require(
            batch >= k,
            f"group size {k} is larger than the batch of {batch}; "
            f"use a batch of at least {k} or a smaller group",
        )
        require(
            batch % k == 0,
            f"a batch of {batch} cannot be split into groups of {k}; "
            f"use a multiple of {k} such as {batch - batch % k}",
        )
        within = torch.arange(k).expand(k, k)
        if not self.include_self:
            within = within[~torch.eye(k, dtype=torch.bool)].view(k, k - 1)
        first = torch.arange(0, batch, k).view(-1, 1, 1)
        return (first + within).view(batch, -1)


@dataclass(frozen=True)
class Shifts:
    """The m inputs that follow in the batch, cyclically: j = i+1, ..., i+m (mod B).

    The loss per input is that of groups of m + 1, its cost is linear in the batch, and any batch
    larger than m will do.

    Args:
        count: Partners m of each input, at least 1; with ``include_self`` also 0.
        include_self: Pair each input with itself too (CITRUS+SI); with 0 others, only with itself.
    """

    count: int = 4
    include_self: bool = False

    def __post_init__(self) -> None:
        check_count(self.count, "number of shifts", 0 if self.include_self else 1)

    def __call__(self, batch: int) -> Tensor:
        """Return the partners (B, m) of each input, or (B, m+1) with itself."""
        check_count(batch, "batch", 0)
        require(
            batch > self.count,
            f"{self.count} cyclic shifts need a batch of at least {self.count + 1}, "
            f"got {batch}; use a larger batch or fewer shifts",
        )
        shift = torch.arange(0 if self.include_self else 1, self.count + 1)
        return (torch.arange(batch).unsqueeze(1) + shift) % batch


PAIRINGS = ("shifts", "groups")


def make_pairing(
    *, pairing: str = "shifts", partners: int = Shifts.count, include_self: bool = False
) -> Pairing:
    """Make a pairing from plain values.

    Args:
        pairing: ``shifts`` pairs an input with those behind it in the batch, ``groups`` with those
            of its group of partners + 1 inputs.
        partners: How many partners an input has; 0 with ``include_self`` for its own box alone.
        include_self: Whether an input is its own partner too.
    """
    expect_known("pairing", pairing, PAIRINGS)
    check_count(partners, "partners", 0 if include_self else 1)
    if pairing == "groups":
        return Groups(partners + 1, include_self)
    return Shifts(partners, include_self)


def joint_sets(partners: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """List all sets of partners of an input that one perturbation is to break together.

    Args:
        partners: (B, m) from a :class:`Pairing`.
        size: Inputs of a set, at most m.

    Returns:
        The sets (S, size), each once, in lexicographic order; and the rows of those of each
        input, (B, m choose size).
    """
    chosen = torch.combinations(torch.arange(partners.shape[1]), size)
    sets = partners[:, chosen].sort(dim=2).values
    different, rows = sets.flatten(0, 1).unique(dim=0, return_inverse=True)
    return different, rows.view(len(partners), -1)


def partners_of(pairing: Pairing, batch: int, device: torch.device) -> Tensor:
    """Return the partners (B, m) of a batch; those of Groups and Shifts stay on the device."""
    return joint_sets_of(pairing, batch, 0, device)[0]


def joint_sets_of(
    pairing: Pairing, batch: int, size: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Return the ``joint_sets`` of a batch; those of Groups and Shifts stay on the device."""
    find: Any = _kept if isinstance(pairing, (Groups, Shifts)) else _found
    return find(pairing, batch, size, device)


def _found(pairing: Pairing, batch: int, size: int, device: torch.device) -> tuple[Tensor, ...]:
    partners = pairing(batch)
    parts = joint_sets(partners, size) if size else (partners,)
    return tuple(part.to(device) for part in parts)


_kept = functools.cache(_found)  # for good: CUDA graphs read them where they are


def cross_input_boxes(
    x: Tensor,
    v: Tensor,
    radius: Scalar,
    partners: Tensor,
    clip: Range | None = PIXELS,
    norm: float = math.inf,
) -> Box:
    """Draw the boxes around x_i + v_j for every partner j of every input i.

    Source: Xu & Singh 2024, Algorithm 1, line 6.

    Args:
        x: Inputs (B, ...).
        v: Perturbations (P, ...).
        radius: τ in pixels, a number or one value a channel as (C, 1, 1).
        partners: Rows of ``v`` (B, m), from a :class:`Pairing`.
        clip: Valid range of the inputs; None for no limits.
        norm: 2 for ℓ2 balls in place of boxes.

    Returns:
        (B·m, ...) boxes, grouped by i: row i·m + p is that of input i and its p-th partner.

    Raises:
        InputError: A value cannot be used.
    """
    check_tensor(x, "x")
    check_tensor(v, "v")
    if 0 in (x.ndim, v.ndim) or x.shape[1:] != v.shape[1:]:
        raise InputError(
            f"x has shape {tuple(x.shape)} but v has {tuple(v.shape)}; expected perturbations "
            "of an input's shape"
        )
    indices = isinstance(partners, Tensor) and partners.dtype == torch.int64
    expect(indices and not partners.is_meta, "partners", partners, "the indices of a Pairing")
    if partners.ndim != 2 or len(partners) != len(x):
        raise InputError(
            f"partners has shape {tuple(partners.shape)}; expected ({len(x)}, m), one row an input"
        )
    known = are_values_known(partners) or not partners.numel()
    if not known and not 0 <= int(partners.min()) <= int(partners.max()) < len(v):
        raise InputError(
            f"partners range from {int(partners.min())} to {int(partners.max())}; expected rows "
            f"of v, 0 to {len(v) - 1}"
        )
    centre = x.unsqueeze(1) + v[partners.to(v.device)]
    return Box.around(centre.flatten(0, 1), radius, clip, norm)
