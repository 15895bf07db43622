"""Dual bounds of tuples of images on their reduced networks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from ...bounds.box import Ball
from .dual import Point
from .reduced import ReducedNetwork, moved
from .worst import shortfall, worst_shared


class ReducedBound:
    """The dual function of D domains of one tuple, as ``DualBound`` is of D tuples.

    The M neurons are those of all s members, one after the other, so that a domain has one row.
    Tensors (D, ...) that it returns are transposed: a domain is a column in memory. Its bounds
    are as rounding leaves them; only what is ``guaranteed`` proves.

    Args:
        networks: The s members.
        ball: The perturbations.
        rows: (D, s) a margin of each member.
        signs: (D, M) of the split neurons, 1 for z >= 0 and -1 for z <= 0.
    """

    def __init__(self, networks: Sequence[ReducedNetwork], ball: Ball, rows: Tensor, signs: Tensor):
        self.networks, self.ball, self.rows = networks, ball, rows
        self.domains, self.members = rows.shape
        self._signs = columns(signs.to(networks[0].bias.dtype)).t()
        self._free, self._less = self._signs == 0, -self._signs
        lower = torch.cat([network.lower for network in networks]).unsqueeze(1)
        upper = torch.cat([network.upper for network in networks]).unsqueeze(1)
        up = upper / (upper - lower)
        self._up = torch.where(self._free, up, self._signs.clamp(min=0))
        self._offset = torch.where(self._free, -lower * up, 0.0)
        self._start = ((upper > -lower) & self._free).to(up.dtype)
        ends = [0, *accumulate(map(len, networks))]
        self._parts = [slice(low, high) for low, high in zip(ends[:-1], ends[1:], strict=True)]

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

        def choose(at: slice, here: slice, c: Tensor) -> Tensor:
            free, up, less = self._free[at][here], self._up[at][here], self._less[at][here]
            slope = torch.where(c > 0, wanted[at][here] / c, 0.0).clamp(max=1)
            beta = (wanted[at][here] - c * up) * less
            p = found[at][here] = torch.where(free, slope, beta).clamp(min=0)
            return c * torch.where(free & (c > 0), p, up) + less * p

        for network, at, row in zip(self.networks, self._parts, self.rows.t(), strict=True):
            network.backward(row, partial(choose, at))
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
        slope, c = point.slope.t(), point.coefficients.t()
        added, inputs = moved(self.networks, self.ball, point.u), []
        for network, n, v in zip(self.networks, self._parts, added, strict=True):
            lines = partial(_relaxed, slope[n], self._up[n], self._offset[n], c[n] > 0)
            inputs.append(network.forward(v, lines)[0])
        z = inputs[0] if self.members == 1 else torch.cat(inputs)
        return c.clamp(min=0).mul_(self._free).sub_(self._signs).mul_(z).t()

    def guaranteed(self, parameter: Tensor, weight: Tensor) -> Tensor:
        """Return the bounds (D,), less what rounding can have added to them; in float64."""
        point, multipliers = self._evaluate(parameter, weight)
        rounding = [
            network.rounding(row, w, self.members)
            for network, row, w in zip(self.networks, self.rows.t(), multipliers, strict=True)
        ]
        return point.value - (weight * torch.stack(rounding, dim=1)).sum(1)

    def split_scores(self, point: Point, weight: Tensor) -> Tensor:
        """Return what the upper line of each unstable ReLU takes from the bound (BaBSR's term).

        (D, M), -1 for the neurons that are split.
        """
        cost = point.coefficients.clamp(max=0).abs() * self._offset.t()
        if self.members > 1:
            sizes = torch.tensor([len(n) for n in self.networks], device=weight.device)
            cost = cost * weight.repeat_interleave(sizes, dim=1)
        return torch.where(self._free.t(), cost, -1.0)

    def _worst(self, a: Sequence[Tensor], weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the u (D, ...) that minimises Σ weight_i a_i·(what u adds to member i).

        And how far the sum may be above its minimum there, None for not at all.
        """
        shape = self.networks[0].x.shape
        if self.ball.clip is None and self.members == 1 and self.ball.norm != 2:
            slopes = a[0].t().unflatten(1, shape)
            return slopes.sign() * -self.ball.radius(slopes), None
        slopes = torch.stack([part.t().unflatten(1, shape) for part in a], dim=1)
        x = torch.stack([network.x for network in self.networks]).expand_as(slopes)
        u = worst_shared(slopes, weight, x, self.ball)
        if self.ball.norm != 2:
            return u, None
        return u, shortfall(slopes, weight, x, self.ball, u).to(slopes.dtype)

    def _evaluate(self, parameter: Tensor, weight: Tensor) -> tuple[Point, list[Tensor]]:
        """Return the bounds, and for each member the multipliers (M, D) that they stand on."""
        p = parameter.t()
        slope, added = torch.where(self._free, p, self._up), self._less * p
        parts: tuple[list[Tensor], ...] = ([], [], [])
        c, w, a = parts
        constant = []
        for network, n, row in zip(self.networks, self._parts, self.rows.t(), strict=True):
            found = network.backward(row, partial(_multiplied, slope[n], self._up[n], added[n]))
            for part, kept in zip(found, parts, strict=True):
                kept.append(part)
            raised = (c[-1].clamp(max=0) * self._offset[n]).sum(0)
            constant.append(network.margin_bias[row] + network.bias @ w[-1] + raised)
        u, above = self._worst(a, weight)
        each = zip(a, moved(self.networks, self.ball, u), strict=True)
        varying = torch.stack([(slopes * v).sum(0) for slopes, v in each], dim=1)
        line = torch.stack(constant, dim=1) + varying
        coefficients = c[0] if self.members == 1 else torch.cat(c)
        value = (weight * line).sum(1)
        value = value if above is None else value - above
        return Point(value, line, u, slope.t(), coefficients.t(), torch.zeros_like(value)), w


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
