"""Zonotopes around what boxes of inputs become behind the ReLUs of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .. import distributed
from .box import Box, Interval
from .segments import Segment


class Relaxation(NamedTuple):
    """λz + μ(1 + e) in the place of ReLU(z): for each z in its bounds some |e| <= 1 gives ReLU(z).

    Attributes:
        slope: λ (N, ...).
        offset: μ (N, ...), 0 where the ReLU does not change its sign.
    """

    slope: Tensor
    offset: Tensor

    @staticmethod
    def between(lower: Tensor, upper: Tensor) -> Relaxation:
        """Return the relaxation of least area: λ = u/(u - l) and μ = -λl/2, of DeepZ."""
        crossing = (lower < 0) & (upper > 0)
        share = upper / torch.where(crossing, upper - lower, 1)
        slope = torch.where(crossing, share, (lower >= 0).to(lower))
        return Relaxation(slope, torch.where(crossing, -slope * lower / 2, 0))

    def __call__(self, z: Tensor, e: Tensor) -> Tensor:
        """Return the value at the error ``e``."""
        return self.slope * z + self.offset * (1 + e)


@dataclass(frozen=True, eq=False)
class Zonotope:
    """The points c + Σ A_j e_j with |e_j| <= 1, of N boxes each its own.

    Its width takes all generators A_j, which for an image are thousands of images. Random
    projections estimate it from few: where c_j are standard Cauchy variables, |Σ A_j c_j| has
    the median Σ |A_j|, element by element. With an estimate the points are those of no proof.

    Source: Balunović & Vechev 2020, Adversarial Training and Provable Defenses, section 4.3;
    Li et al. 2007, Nonlinear Estimators and Tail Bounds for Dimension Reduction in ℓ1.

    Args:
        centre: c (N, ...).
        terms: For the input and for each ReLU passed, its generators or random sums of them,
            (n, N, ...).
        projections: Random sums of each; 0 for the generators themselves.
    """

    centre: Tensor
    terms: tuple[Tensor, ...]
    projections: int

    @staticmethod
    def of(box: Box, projections: int) -> Zonotope:
        """Return the boxes as zonotopes."""
        centre, radius = Interval.of(box)
        return Zonotope(centre, (_terms(radius, projections),), projections)

    @property
    def radius(self) -> Tensor:
        """Half the width of each element, or its estimate."""
        if self.projections:
            return torch.stack([t.abs().median(0).values for t in self.terms]).sum(0)
        return torch.cat(self.terms).abs().sum(0)

    def box(self) -> Box:
        """Return the ends of each element, or estimates of them."""
        radius = self.radius
        return Box(self.centre - radius, self.centre + radius)

    def through(self, segment: Segment) -> Zonotope:
        """Return the zonotope behind an affine map."""
        shift = segment(torch.zeros_like(self.centre[:1]))
        terms = tuple(
            (segment(t.flatten(0, 1)) - shift).unflatten(0, t.shape[:2]) for t in self.terms
        )
        return Zonotope(segment(self.centre), terms, self.projections)

    def relaxed(self, relu: Relaxation) -> Zonotope:
        """Return the zonotope behind a relaxed ReLU, with an error term for each element."""
        terms = [relu.slope * t for t in self.terms]
        new = _terms(relu.offset, self.projections)
        centre = relu.slope * self.centre + relu.offset
        return Zonotope(centre, (*terms, new), self.projections)


@dataclass(frozen=True, eq=False)
class RelaxedLayers:
    """The first layers of a network over N boxes, with a relaxation in place of each ReLU.

    ``layers(errors)`` are points of the zonotope behind the last ReLU, found by a pass through
    the layers rather than from generators.

    Args:
        box: The boxes, in pixels.
        segments: The affine map in front of each ReLU.
        relus: The relaxation of each ReLU.
    """

    box: Box
    segments: Sequence[Segment]
    relus: Sequence[Relaxation]

    @property
    def errors(self) -> int:
        """How many error terms there are."""
        return sum(self._sizes())

    def __call__(self, errors: Tensor) -> Tensor:
        """Return the points (N, ...) at errors (N, M) of at most 1."""
        centre, radius = Interval.of(self.box)
        first, *others = errors.split(self._sizes(), dim=1)
        z = centre + radius * first.view_as(centre)
        for segment, relu, e in zip(self.segments, self.relus, others, strict=True):
            z = relu(segment(z), e.view(-1, *segment.shape))
        return z

    def without_last(self) -> RelaxedLayers:
        """Return the same without the last ReLU and the map in front of it."""
        return RelaxedLayers(self.box, self.segments[:-1], self.relus[:-1])

    def _sizes(self) -> list[int]:
        return [self.box.lower[0].numel(), *(torch.Size(s.shape).numel() for s in self.segments)]


def relax(
    segments: Sequence[Segment], box: Box, projections: int
) -> tuple[RelaxedLayers, Zonotope]:
    """Relax the first layers of a network over boxes.

    Args:
        segments: The affine map in front of each ReLU, of ``BoundedNet.chain``.
        box: N boxes, in pixels.
        projections: Random projections that estimate widths; 0 for exact ones, which take
            memory for every generator.

    Returns:
        The relaxed layers, and the zonotopes behind the last ReLU. With exact widths these
        contain, up to rounding, all that the layers make of the boxes.
    """
    zonotope, relus = Zonotope.of(box, projections), []
    for segment in segments:
        zonotope = zonotope.through(segment)
        relus.append(Relaxation.between(*zonotope.box()))
        zonotope = zonotope.relaxed(relus[-1])
    return RelaxedLayers(box, segments, relus), zonotope


def _terms(radius: Tensor, projections: int) -> Tensor:
    """Generators of independent errors of these sizes (N, ...), or random sums of them."""
    if projections:
        return (radius.unsqueeze(1) * _cauchy(radius, projections)).transpose(0, 1)
    diagonal = radius.flatten(1).diag_embed().transpose(0, 1)
    return diagonal.unflatten(2, radius.shape[1:])


def _cauchy(like: Tensor, count: int) -> Tensor:
    """Standard Cauchy variables (N, count, ...), which tan makes faster than torch's cauchy_."""
    shares = distributed.draw_rows(
        lambda rows: torch.rand(
            (rows, count, *like.shape[1:]), dtype=like.dtype, device=like.device
        ),
        len(like),
    )
    return shares.sub_(0.5).mul_(math.pi).tan_()
