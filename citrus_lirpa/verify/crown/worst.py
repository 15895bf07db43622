"""The perturbation that minimises a weighted sum of lines, and how far below the minimum may lie.

Unclipped, Σ_i w_i a_i·(x_i + u) is smallest at u = -ε sign(g) for ‖u‖∞ <= ε, and at -ε g/‖g‖₂ for
‖u‖₂ <= ε, with g = Σ_i w_i a_i. Clipped, it is piecewise linear in each pixel's own u: for ∞ it is
smallest at one of the ends ±ε or of the kinks where some x_i + u meets the range.

Clipped and for ‖u‖₂, v_i = cut(x_i + u) - cut(x_i) lies in the ball and in a box, as cutting moves
no two points apart. A linear function on ball and box is smallest at v = cut(-ν g) for some ν, and

    Σ_p (g_p v_p + v_p²/2ν) - ε²/2ν,    v_p = cut(-ν g_p),

is at most that for every ν > 0. A tuple has two bounds: the sum of those of its members, each as if
it had a u of its own, and the minimum over the box ‖u‖∞ <= ε. The larger one counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...bounds.box import Ball, Box
from ...bounds.norms import unit_vectors
from .rounding import unit

#: Steps that look for ν; each of them adds the pixels that it finds at the ends of the box.
_STEPS = 12
#: Slopes below it are as good as zero.
_FLAT = 1e-30


def worst_shared(a: Tensor, weight: Tensor, x: Tensor, ball: Ball) -> Tensor:
    """Return a u (D, ...), ‖u‖ <= ε, that minimises Σ_i w_i a_i·clamp(x_i + u).

    It does so exactly for ∞; for ℓ2 up to what :func:`shortfall` returns.

    Args:
        a: (D, s, ...) coefficients.
        weight: (D, s).
        x: (D, s, ...) inputs.
        ball: The perturbations.
    """
    weighted = weight.view(*weight.shape, *[1] * (a.ndim - 2)) * a
    if ball.norm == 2:
        if ball.clip is not None and x.shape[1] == 1:
            return _in_ball_and_box(a[:, 0], x[:, 0], ball)[0].to(a.dtype)
        return -ball.radius(x) * unit_vectors(weighted.sum(1))
    if ball.clip is None:
        return -ball.radius(x) * weighted.sum(1).sign()
    return _at_kinks(weighted, x, ball)


def _at_kinks(weighted: Tensor, x: Tensor, ball: Ball) -> Tensor:
    """Return the minimiser for ∞ under clipping, among the kinks of every pixel."""
    box = Ball(ball.eps, ball.clip)
    kinks = [box.project(box.cut(torch.full_like(x, far)) - x) for far in (-1e9, 1e9)]
    ends = torch.ones_like(x[:, :1]) * box.radius(x)
    best = torch.full_like(x[:, 0], torch.inf)
    u = torch.zeros_like(best)
    for candidate in torch.cat([-ends, ends, *kinks], dim=1).unbind(1):
        value = (weighted * box.cut(x + candidate.unsqueeze(1))).sum(1)
        u = torch.where(value < best, candidate, u)
        best = torch.minimum(best, value)
    return u + 0 * weighted.sum(1)  # NaN, which proves nothing, where coefficients overflow


def shortfall(a: Tensor, weight: Tensor, x: Tensor, ball: Ball, u: Tensor) -> Tensor:
    """Return how far Σ_i w_i a_i·clamp(x_i + u) may be above its minimum, for ‖u‖₂ <= ε.

    u (D, ...) and the other arguments are as of :func:`worst_shared`. The result (D,) is in
    float64, rounding included.
    """
    members, pixels = a.shape[1], a[0, 0].numel()
    sums = 8 * unit(torch.float64) * (pixels + 8 * members + 16)
    w = weight.double()
    sizes = torch.linalg.vector_norm(a.flatten(2), dim=2, dtype=torch.float64)
    if ball.clip is None:
        # u is as long as ε, and as parallel to g, as rounding leaves it
        off = torch.where(sizes < _FLAT, 2.0, (8 + 8 * members) * unit(a.dtype) + sums)
        return float(ball.eps) * (w * off * sizes).sum(1)
    a, x, shape = a.double(), x.double(), (*w.shape, *[1] * (a.ndim - 2))
    least = (w * _in_ball_and_box(a.flatten(0, 1), x.flatten(0, 1), ball)[1].view(w.shape)).sum(1)
    weighted = w.view(shape) * a
    if members > 1:
        boxed = _value(weighted, x, ball, _at_kinks(weighted, x, ball))
        least = torch.maximum(least, boxed)
    reach = (weighted.abs() * (x.abs() + ball.eps)).flatten(1).sum(1)
    return _value(weighted, x, ball, u.double()) - least + sums * reach


def _value(weighted: Tensor, x: Tensor, ball: Ball, u: Tensor) -> Tensor:
    """Return what u adds to the sum (D,)."""
    return (weighted * (ball.cut(x + u.unsqueeze(1)) - x)).flatten(1).sum(1)


def _in_ball_and_box(a: Tensor, x: Tensor, ball: Ball) -> tuple[Tensor, Tensor]:
    """Return the v = cut(x + u) - x (R, ...) that minimises a·v, and a lower bound (R,) of it."""
    a, x = a.double(), x.double()
    inner = ball.cut(x)
    ends = Ball(ball.eps, ball.clip).box(x)
    box = Box((ends.lower - inner).flatten(1), (ends.upper - inner).flatten(1))
    g, eps = a.flatten(1), float(ball.eps)
    far = torch.where(g > 0, box.lower, box.upper)  # where a step against g ends
    nu = (eps / g.norm(dim=1, keepdim=True).clamp(min=_FLAT)).clamp(min=_FLAT)
    for _ in range(_STEPS):
        ended = nu * g.abs() >= far.abs()
        left = eps**2 - (far.square() * ended).sum(1, keepdim=True)
        slope = g.square().masked_fill(ended, 0.0).sum(1, keepdim=True)
        nu = torch.maximum(nu, (left.clamp(min=0) / slope.clamp(min=_FLAT**2)).sqrt())
    v = torch.minimum(torch.maximum(-nu * g, box.lower), box.upper)
    least = (g * v + v.square() / (2 * nu)).sum(1) - eps**2 / (2 * nu.squeeze(1))
    moved = (inner - x).flatten(1)
    return (v + moved).view_as(a), least + (g * moved).sum(1)
