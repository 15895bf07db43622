"""Projected gradient ascent: the one loop every attack uses, and PGD on inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import distributed
from ..bounds.box import PIXELS, Box
from ..bounds.checks import Range, Scalar, check_radius, check_range, is_count, is_number, shown
from ..bounds.inputs import check_labelled
from ..bounds.net import as_bounded_net
from ..errors import InputError

#: Shares of the steps after which an attack's step shrinks tenfold.
DECAY_AT = (0.5, 0.8, 0.9)


def ascend(
    objective: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
    start: Tensor,
    step: Scalar,
    steps: int,
    momentum: float = 0.0,
    decay: Sequence[float] = DECAY_AT,
) -> Tensor:
    """``steps`` sign-gradient ascent steps on a scalar objective, projecting after each.

    momentum: the share of the earlier direction that each gradient is added to; decay: the
    step shrinks tenfold after each of these shares of the steps.
    """
    decay_at = [math.ceil(share * steps) for share in decay]
    v = project(start)
    direction: Tensor | float = 0.0
    for i in range(steps):
        v.requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(objective(v), v)
        direction = momentum * direction + gradient if momentum else gradient
        shrink = 0.1 ** sum(i >= at for at in decay_at)
        v = project(direction.sign().mul_(step * shrink).add_(v.detach()))
    return v


def uniform_start(shape: torch.Size, eps: Scalar, like: Tensor) -> Tensor:
    """Uniform in [-eps, eps]^shape from torch's global generator, as ``like`` is."""
    return torch.empty(shape, dtype=like.dtype, device=like.device).uniform_(-1, 1) * eps


@dataclass(frozen=True)
class PGD:
    """Untargeted L∞ PGD on the cross-entropy, each input its own perturbation.

    steps: gradient steps; step_size: first step as a share of ε, shrunk tenfold
    after 50, 80 and 90 % of the steps; restarts: random starts, of which the one
    with the highest loss is kept per input; clip: range that x + v stays in.
    """

    steps: int = 20
    step_size: float = 0.5
    restarts: int = 1
    clip: Range | None = PIXELS

    def __post_init__(self) -> None:
        sized = is_number(self.step_size) and self.step_size > 0
        if not (is_count(self.steps, 0) and is_count(self.restarts) and sized):
            raise InputError(
                f"PGD with {shown(self.steps)} steps of size {shown(self.step_size)} and "
                f"{shown(self.restarts)} restarts; expected steps >= 0, step_size > 0 and "
                "restarts >= 1"
            )
        check_range(self.clip)

    def __call__(self, net: object, x: Tensor, y: Tensor, eps: Scalar) -> Tensor:
        """Perturbations v, shaped as x (N, ...), with |v| <= eps and x + v in range, up to the
        rounding of x.

        The network runs in eval mode and its mode is restored; v is detached.
        """
        eps = check_radius(eps, "ε")
        net = as_bounded_net(net)
        check_labelled(net, x, y)
        lower, upper = Box.around(x, eps, self.clip)

        def start() -> Tensor:
            shares = distributed.draw_rows(
                lambda rows: uniform_start(torch.Size([rows, *x.shape[1:]]), 1.0, x), len(x)
            )
            return x + shares * eps

        def project(z: Tensor) -> Tensor:
            return torch.clamp(z, lower, upper)

        with net.evaluating():
            logits = net.frozen()

            def losses(z: Tensor) -> Tensor:
                return F.cross_entropy(logits(z), y, reduction="none")

            runs = [
                ascend(
                    lambda z: losses(z).sum(),
                    project,
                    start(),
                    self.step_size * eps,
                    self.steps,
                )
                for _ in range(self.restarts)
            ]
            if self.restarts == 1:
                return runs[0] - x
            with torch.no_grad():
                best = torch.stack([losses(z) for z in runs]).argmax(0)
        return torch.stack(runs)[best, torch.arange(len(x), device=x.device)] - x
