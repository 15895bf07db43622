"""Attacks on reduced networks: they find what breaks all members of a tuple."""

from __future__ import annotations

import torch
from torch import Tensor

from ...bounds.box import Ball, clamp
from ...bounds.deadline import time_is_over
from .reduced_tuple import ReducedTuple

#: An attack begins at so many of the given perturbations, and at so many random corners.
_GIVEN, _CORNERS = 16, 8
_STEPS, _MOMENTUM = 20, 0.75
#: From which share of the steps on they have which size, in ε.
_SIZES = ((0.0, 0.5), (0.4, 0.15), (0.7, 0.05), (0.9, 0.015))


class Descent:
    """Gradient descent with momentum, of steps of one length, on a tuple's largest margin.

    On the ball, reduced networks have the margins and gradients of the network itself.

    Args:
        network: The tuple.
        ball: The perturbations.
        rows: (N, s) the combinations of margins that would break all members.
    """

    def __init__(self, network: ReducedTuple, ball: Ball, rows: Tensor):
        self.network, self.ball, self.rows = network, ball, rows
        self.shape = network.x.shape[1:]
        eps = ball.radius(network.x[0])
        self._eps = eps.reshape(-1, 1) if isinstance(eps, Tensor) else eps
        self._random = torch.Generator(rows.device).manual_seed(0)

    def __call__(self, rows: Tensor, u: Tensor) -> Tensor:
        """Return perturbations (n, ...) that make all margins of a combination negative.

        Args:
            rows: (D, s) combinations.
            u: (D, ...) where their bounds are attained; the best are where attacks begin.
        """
        given = u.flatten(1).t()
        best = self.margins(rows, given)[0].topk(min(_GIVEN, len(rows)), largest=False).indices
        rows = torch.cat([rows[best], self._draw(self.rows, _CORNERS)])
        point = torch.cat([given[:, best], self._corners(given, _CORNERS)], dim=1)
        lowest, where = torch.full_like(point[0], torch.inf), point.clone()
        direction = torch.zeros_like(point)
        for step in range(_STEPS + 1):
            margin, gradient = self.margins(rows, point)
            lower = margin < lowest
            lowest = torch.minimum(lowest, margin)
            where = torch.where(lower, point, where)
            if bool((lowest < 0).any()) or time_is_over():
                break
            scale = gradient.abs().mean(0).clamp(min=torch.finfo(point.dtype).tiny)
            direction = _MOMENTUM * direction + gradient / scale
            size = max(begin for begin in _SIZES if begin[0] * _STEPS <= step)[1]
            point = self._moved(point, direction, size)
        return where[:, lowest < 0].t().unflatten(1, self.shape)

    def _moved(self, point: Tensor, direction: Tensor, size: float) -> Tensor:
        """Return the points (P, D) after a step against a direction, of so many ε."""
        if self.ball.norm == 2:
            step = size * self._eps * self.ball.direction(direction.t())
            return self.ball.project(point.t() - step).t()
        return clamp(point - size * self._eps * direction.sign(), (-self._eps, self._eps))

    def margins(self, rows: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest margin (D,) of the members at u (P, D), and its gradient (P, D)."""
        network, v = self.network, self.network.moved(self.ball, u.t().unflatten(1, self.shape))
        z, h = network.forward(network.reached(v), lambda here, z: z.relu())
        on, outputs = (z > 0).to(z.dtype), network.outputs(rows)
        margin, worst = network.margins(rows, v, outputs * h).max(0)
        outputs *= network.member.unsqueeze(1) == worst
        _, w = network.backward(outputs, lambda here, c: c * on[here])
        weight = torch.zeros_like(rows, dtype=z.dtype).t().scatter(0, worst.unsqueeze(0), 1.0)
        a = network.slopes(w, network.weights(rows, weight))
        return margin, a.unflatten(0, (-1, len(u))).sum(0)

    def _draw(self, rows: Tensor, count: int) -> Tensor:
        which = torch.randint(len(rows), (count,), generator=self._random, device=rows.device)
        return rows[which]

    def _corners(self, like: Tensor, count: int) -> Tensor:
        shape = len(like), count
        sides = torch.randint(2, shape, generator=self._random, device=like.device)
        corners = (2 * sides - 1).to(like.dtype) * self._eps
        return self.ball.project(corners.t()).t() if self.ball.norm == 2 else corners
