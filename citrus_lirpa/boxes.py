"""Boxes in pixel space, and the cross-input boxes of CITRUS. Pure tensor code.

Notation: B inputs in a batch, each paired with m perturbations of other
inputs; images are (B, C, H, W) or any (B, ...).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .checks import (
    check_count,
    check_fits,
    check_radius,
    check_range,
    check_tensor,
    fits,
    is_count,
    shown,
)
from .errors import InputError

#: A number, or a tensor broadcastable to the images (one value per channel as (C, 1, 1)).
Scalar = float | Tensor
#: Lowest and highest value an input may have.
Range = tuple[Scalar, Scalar]

PIXELS: Range = (0.0, 1.0)


def same_range(a: Range | None, b: Range | None) -> bool:
    """Whether both are None, or of equal ends as they broadcast to each other."""
    if a is None or b is None:
        return a is b
    ends = [[torch.as_tensor(v, dtype=torch.float64).cpu() for v in pair] for pair in (a, b)]
    return all(_broadcast(p, q) and bool((p == q).all()) for p, q in zip(*ends, strict=True))


def _broadcast(p: Tensor, q: Tensor) -> bool:
    return fits(p, q) or fits(q, p)


class Box(NamedTuple):
    """An axis-aligned box of inputs: all x with lower <= x <= upper, elementwise."""

    lower: Tensor
    upper: Tensor

    @staticmethod
    def around(centre: Tensor, radius: Scalar, clip: Range | None = PIXELS) -> Box:
        """The box of ``radius`` around each centre, cut to the valid range.

        Both ends are clamped from both sides, so lower <= upper always holds: a
        centre further than ``radius`` outside the range gives the single nearest
        point of the range, never an inverted box.
        """
        check_tensor(centre, "a box's centre")
        radius = check_radius(radius)
        check_fits(radius, centre, "radius")
        if isinstance(radius, Tensor):
            radius = radius.to(centre.device)
        if not isinstance(clip, Box):  # the ends of a box are in order already
            check_range(clip)
        check_fits(clip, centre, "clip")
        return Box(clamp(centre - radius, clip), clamp(centre + radius, clip))

    @property
    def centre(self) -> Tensor:
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Tensor:
        """Half the width, elementwise."""
        return (self.upper - self.lower) / 2

    def __len__(self) -> int:
        return len(self.lower)

    def __repr__(self) -> str:
        shapes = {tuple(end.shape) for end in self}
        if len(shapes) > 1 or not self.lower.numel():
            return f"Box(lower {tuple(self.lower.shape)}, upper {tuple(self.upper.shape)})"
        radius = self.radius.detach()
        low, high = f"{float(radius.min()):.4g}", f"{float(radius.max()):.4g}"
        return f"Box({shapes.pop()}, radius {high if low == high else f'{low} to {high}'})"

    def rows(self, index: Tensor | slice) -> Box:
        """The boxes at ``index`` of the batch dimension."""
        return Box(self.lower[index], self.upper[index])


class Interval(NamedTuple):
    """The same kind of box by its middle: all z with |z - centre| <= radius, elementwise."""

    centre: Tensor
    radius: Tensor

    @staticmethod
    def of(box: Box) -> Interval:
        centre = torch.lerp(box.lower, box.upper, 0.5)
        return Interval(centre, box.radius)

    def box(self) -> Box:
        return Box(self.centre - self.radius, self.centre + self.radius)


def clamp(x: Tensor, limits: Range | None) -> Tensor:
    """``x`` cut to ``limits`` (numbers or broadcastable tensors); unchanged for None."""
    if limits is None:
        return x
    low, high = limits
    if not (isinstance(low, Tensor) or isinstance(high, Tensor)):
        return x.clamp(low, high)
    lower, upper = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in limits)
    return torch.minimum(torch.maximum(x, lower), upper)


class Pairing(Protocol):
    """Chooses, for each input of a batch, the others whose perturbations it sees."""

    def __call__(self, batch: int) -> Tensor:
        """(B, m) indices j; row i lists the partners of input i."""


@dataclass(frozen=True)
class Groups:
    """Groups of k consecutive inputs, all ordered pairs within a group (Algorithm 1).

    m = k - 1, or k with ``include_self`` (CITRUS+SI of Table 3). The batch must be
    a multiple of k; a batch of k is the paper's own mode.
    """

    size: int = 5
    include_self: bool = False

    def __post_init__(self) -> None:
        if not is_count(self.size, 2):
            raise InputError(
                f"group size is {shown(self.size)}; expected at least 2: "
                "a cross-input box needs another input"
            )

    def __call__(self, batch: int) -> Tensor:
        check_count(batch, "batch", 0)
        k = self.size
        if batch < k:
            raise InputError(
                f"group size {k} is larger than the batch of {batch}; "
                f"use a batch of at least {k} or a smaller group"
            )
        if batch % k:
            raise InputError(
                f"a batch of {batch} cannot be split into groups of {k}; "
                f"use a multiple of {k} such as {batch - batch % k}"
            )
        within = torch.arange(k).expand(k, k)
        if not self.include_self:
            within = within[~torch.eye(k, dtype=torch.bool)].view(k, k - 1)
        first = torch.arange(0, batch, k).view(-1, 1, 1)
        return (first + within).view(batch, -1)


@dataclass(frozen=True)
class Shifts:
    """The m following inputs of the batch, cyclically: j = i+1, ..., i+m (mod B).

    The same loss per input as groups of m + 1 at linear cost in the batch, for any
    batch larger than m. ``include_self`` adds j = i (CITRUS+SI).
    """

    count: int = 4
    include_self: bool = False

    def __post_init__(self) -> None:
        if not is_count(self.count):
            raise InputError(f"number of shifts is {shown(self.count)}; expected at least 1")

    def __call__(self, batch: int) -> Tensor:
        check_count(batch, "batch", 0)
        if batch <= self.count:
            raise InputError(
                f"{self.count} cyclic shifts need a batch of at least {self.count + 1}, "
                f"got {batch}; use a larger batch or fewer shifts"
            )
        shift = torch.arange(0 if self.include_self else 1, self.count + 1)
        return (torch.arange(batch).unsqueeze(1) + shift) % batch


def cross_input_boxes(
    x: Tensor, v: Tensor, radius: Scalar, partners: Tensor, clip: Range | None = PIXELS
) -> Box:
    """Boxes of ``radius`` τ around x_i + v_j for every partner j of every input i.

    x: (B, ...) inputs; v: (P, ...) perturbations, the adversarial one of each input first;
    partners: (B, m) rows of v, from a :class:`Pairing`. Returns a Box of (B·m, ...) grouped
    by i: row i·m + p is the box of input i and its p-th partner (Xu & Singh, Algorithm 1
    line 6).
    """
    check_tensor(x, "x")
    check_tensor(v, "v")
    if 0 in (x.ndim, v.ndim) or x.shape[1:] != v.shape[1:] or len(v) < len(x):
        raise InputError(
            f"x has shape {tuple(x.shape)} but v has {tuple(v.shape)}; expected a perturbation "
            "of the same shape for each input"
        )
    if not isinstance(partners, Tensor) or partners.dtype != torch.int64 or partners.is_meta:
        raise InputError(f"partners are {shown(partners)}; expected the indices of a Pairing")
    if partners.ndim != 2 or len(partners) != len(x):
        raise InputError(
            f"partners has shape {tuple(partners.shape)}; expected ({len(x)}, m), one row an input"
        )
    if partners.numel() and not 0 <= int(partners.min()) <= int(partners.max()) < len(v):
        raise InputError(
            f"partners range from {int(partners.min())} to {int(partners.max())}; expected rows "
            f"of v, 0 to {len(v) - 1}"
        )
    centre = x.unsqueeze(1) + v[partners.to(v.device)]
    return Box.around(centre.flatten(0, 1), radius, clip)
