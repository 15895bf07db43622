"""Dual bounds of tuples of images on their reduced networks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ...bounds.box import Ball
from .dual import Point
from .reduced_tuple import ReducedTuple
from .worst import shortfall, worst_shared


class ReducedBound:
    """The dual function of D domains of one tuple, as ``DualBound`` is of D tuples.

    The M neurons are those of all s members, in the order of the tuple, so that a domain has one
    row. Tensors (D, ...) that it returns are transposed: a domain is a column in memory. Its
    bounds are as rounding leaves them; only what is ``guaranteed`` proves.

    Args:
        network: The tuple.
        ball: The perturbations.
        rows: (D, s) a margin of each member.
        signs: (D, M) of the split neurons, 1 for z >= 0 and -1 for z <= 0.
    """

    def __init__(self, network: ReducedTuple, ball: Ball, rows: Tensor, signs: Tensor):
        self.network, self.ball, self.rows = network, ball, rows
        self.domains, self.members = rows.shape
        self._signs = columns(signs.to(network.bias.dtype)).t()
        self._free, self._less = self._signs == 0, -self._signs
        lower, upper = network.lower.unsqueeze(1), network.upper.unsqueeze(1)
        up = upper / (upper - lower)
        self._up = torch.where(self._free, up, self._signs.clamp(min=0))
        self._offset = torch.where(self._free, -lower * up, 0.0)
        self._start = ((upper > -lower) & self._free).to(up.dtype)
        self._outputs = network.outputs(rows)

    @property
    def signs(self) -> Tensor:
        """(D, M) of the split neurons."""
        return self._signs.t()

    def start(self) -> Tensor:
        """Return CROWN's slopes (D, M)."""
        return self._start.t()

    def parameter(self, multipliers: Tensor) -> Tensor:
        """Return the α and β (D, M) that multiply the ReLUs' inputs as nearly by given numbers.

        Args:
            multipliers: (D, M) of the inputs, for each member's margin taken once.
        """
        wanted, found = multipliers.t(), torch.zeros_like(self._signs)

        def choose(here: slice, c: Tensor) -> Tensor:
            free, up, less = self._free[here], self._up[here], self._less[here]
            slope = torch.where(c > 0, wanted[here] / c, 0.0).clamp(max=1)
            beta = (wanted[here] - c * up) * less
            p = found[here] = torch.where(free, slope, beta).clamp(min=0)
            return c * torch.where(free & (c > 0), p, up) + less * p

        self.network.backward(self._outputs.clone(), choose)
        return found.t()

    def __call__(self, parameter: Tensor, weight: Tensor) -> Point:
        """Evaluate the bounds.

        Args:
            parameter: (D, M), α in [0, 1] of unstable neurons, β >= 0 of split ones.
            weight: (D, s), at least 0, with sum 1 for every domain.
        """
        return self._evaluate(parameter, weight)[0]

    def gradient(self, point: Point) -> Tensor:
        """Return the gradient (D, M) in α and β at ``point``, as that of ``DualBound``."""
        slope, c, z = point.slope.t(), point.coefficients.t(), point.reached.clone()
        lines = partial(_relaxed, slope, self._up, self._offset, c > 0)
        z, _ = self.network.forward(z, lines)
        return c.clamp(min=0).mul_(self._free).sub_(self._signs).mul_(z).t()

    def guaranteed(self, parameter: Tensor, weight: Tensor) -> Tensor:
        """Return the bounds (D,), less what rounding can have added to them; in float64."""
        point, multipliers = self._evaluate(parameter, weight)
        rounding = self.network.rounding(self.rows, multipliers)
        return point.value - (weight * rounding.t()).sum(1)

    def split_scores(self, point: Point, weight: Tensor) -> Tensor:
        """Return what the upper line of each unstable ReLU takes from the bound (BaBSR's term).

        (D, M), -1 for the neurons that are split.
        """
        cost = point.coefficients.clamp(max=0).abs() * self._offset.t()
        if self.members > 1:
            cost = cost * weight[:, self.network.member]
        return torch.where(self._free.t(), cost, -1.0)

    def _worst(self, a: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the u (D, ...) that minimises a·v, a (V, D), for the v that u adds to the images.

        And how far it may be above its minimum there, None for not at all.
        """
        images = self.network.x
        if self.ball.clip is None and self.ball.norm != 2:
            slopes = a.t().unflatten(1, images.shape[1:])
            return slopes.sign() * -self.ball.radius(slopes), None
        slopes = a.t().unflatten(1, (-1, *images.shape[1:]))
        weight, x = slopes.new_ones(slopes.shape[:2]), images[: slopes.shape[1]].expand_as(slopes)
        u = worst_shared(slopes, weight, x, self.ball)
        if self.ball.norm != 2:
            return u, None
        return u, shortfall(slopes, weight, x, self.ball, u).to(slopes.dtype)

    def _evaluate(self, parameter: Tensor, weight: Tensor) -> tuple[Point, Tensor]:
        """Return the bounds, and the multipliers (M, D) that they stand on."""
        network, p = self.network, parameter.t()
        slope, added = torch.where(self._free, p, self._up), self._less * p
        multiplied = partial(_multiplied, slope, self._up, added)
        c, w = network.backward(self._outputs.clone(), multiplied)
        weighted = w if self.members == 1 else w * weight.t()[network.member]
        a = network.slopes(weighted, network.weights(self.rows, weight.t()))
        u, above = self._worst(a)
        v = network.moved(self.ball, u)
        reached = network.reached(v)
        terms = (w * reached).addcmul_(c.clamp(max=0), self._offset)
        line = network.margins(self.rows, v, terms).t()
        value = (weight * line).sum(1)
        value = value if above is None else value - above
        none = torch.zeros_like(value)
        return Point(value, line, u, slope.t(), c.t(), none, reached=reached), w


def _multiplied(slope: Tensor, up: Tensor, added: Tensor, here: slice, c: Tensor) -> Tensor:
    """Return the multipliers of z: each h is replaced by the line that bounds c h from below.

    And -β is ``added`` for neurons that are on, β for those that are off.
    """
    return torch.addcmul(added[here], c, torch.where(c > 0, slope[here], up[here]))


def _relaxed(
    slope: Tensor, up: Tensor, offset: Tensor, positive: Tensor, here: slice, z: Tensor
) -> Tensor:
    """Return h on the lines that were chosen by the signs of the coefficients."""
    return torch.where(positive[here], z * slope[here], torch.addcmul(offset[here], z, up[here]))


def columns(rows: Tensor) -> Tensor:
    """Return a matrix (D, M) whose rows are columns in memory."""
    return rows.t().contiguous().t()
