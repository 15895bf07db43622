"""Projected gradient ascent: the one loop that every attack uses, and PGD on inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import distributed
from ..bounds.box import PIXELS, Ball
from ..bounds.checks import (
    Range,
    Scalar,
    check_count,
    check_fits,
    check_positive,
    check_radius,
    check_range,
)
from ..bounds.deadline import time_is_over
from ..bounds.frozen import Frozen
from ..bounds.inputs import check_labelled, outside_inference, taking_data
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.radius import as_type

#: Shares of the steps after which an attack's step shrinks tenfold.
DECAY_AT = (0.5, 0.8, 0.9)


@torch.no_grad()
def ascend(
    gradient: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
    start: Tensor,
    step: Scalar,
    steps: int,
    momentum: float = 0.0,
    decay: Sequence[float] = DECAY_AT,
) -> Tensor:
    """Ascend a scalar function by the signs of its gradient, projecting after every step.

    At a deadline (:mod:`..bounds.deadline`) it ends with the value that it has.

    Args:
        gradient: Its gradient, as ``gradient_of`` gives it, at a variable shaped as ``start``.
        project: Projection onto the set that the variable stays in.
        start: First value; it is projected too.
        step: Length of the first step, a number or a tensor that broadcasts to ``start``.
        steps: Number of gradient steps.
        momentum: Share of the earlier direction that is added to each gradient.
        decay: Shares of the steps; after each of them the step shrinks tenfold.

    Returns:
        The last value, detached.
    """
    decay_at = [math.ceil(share * steps) for share in decay]
    v = project(start)
    direction: Tensor | float = 0.0
    for i in range(steps):
        if time_is_over():
            break
        direction = momentum * direction + gradient(v) if momentum else gradient(v)
        shrink = 0.1 ** sum(i >= at for at in decay_at)
        v = project(direction.sign().mul_(step * shrink).add_(v))
    return v


def check_step_size(value: float) -> None:
    """Raise InputError unless ``value`` is a number > 0."""
    check_positive(value, "step_size", "a number > 0, as a share of ε")


def uniform_start(shape: torch.Size, eps: Scalar, like: Tensor) -> Tensor:
    """Draw from [-eps, eps]^shape uniformly, by torch's global generator.

    Args:
        shape: Shape of the draw.
        eps: Largest absolute value, in pixels.
        like: A tensor whose type and device the draw gets.
    """
    return torch.empty(shape, dtype=like.dtype, device=like.device).uniform_(-1, 1) * eps


@dataclass(frozen=True)
class PGD:
    """Untargeted L∞ PGD on the cross-entropy, with a perturbation for each input.

    Source: Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks.

    Args:
        steps: Gradient steps.
        step_size: First step as a share of ε; it shrinks tenfold after 50, 80 and 90 % of the
            steps.
        restarts: Random starts; each input keeps the one with its highest loss.
        clip: Range that x + v stays in; None for no limits. A loss that is given a PGD replaces
            it by its own range.
    """

    steps: int = 20
    step_size: float = 0.5
    restarts: int = 1
    clip: Range | None = PIXELS

    def __post_init__(self) -> None:
        check_count(self.steps, "PGD.steps", 0)
        check_count(self.restarts, "PGD.restarts")
        check_step_size(self.step_size)
        check_range(self.clip)

    def within(self, clip: Range | None) -> PGD:
        """Return the same attack with another valid range of the inputs."""
        return replace(self, clip=clip)

    @staticmethod
    def sign_step(clip: Range | None = PIXELS) -> PGD:
        """Return an attack of one step, across the whole ball: to the corner that it points at."""
        return PGD(steps=1, step_size=2.0, clip=clip)

    @outside_inference
    @taking_data
    def __call__(self, net: object, x: Tensor, y: Tensor, eps: Scalar) -> Tensor:
        """Find a perturbation for each input.

        The network runs in eval mode, and its mode is restored.

        Args:
            net: BoundedNet, or an auto_LiRPA BoundedModule.
            x: Inputs (N, ...).
            y: Labels (N,).
            eps: Radius ε in pixels, a number or a tensor that broadcasts to ``x``.

        Returns:
            Perturbations v, shaped as ``x`` and detached, with |v| <= eps and x + v in the
            range, up to the rounding of x.

        Raises:
            InputError: A value cannot be used.
        """
        eps = check_radius(eps, "ε")
        net = as_bounded_net(net)
        check_labelled(net, x, y)
        check_fits(eps, x, "ε")
        check_fits(self.clip, x, "clip")
        return self.perturb(net, x, y, as_type(eps, x))

    def perturb(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> Tensor:
        """Find the same perturbations for a batch that was checked before, as losses do."""
        x = x.detach()
        lower, upper = Ball(eps, self.clip).box(x)

        def start() -> Tensor:
            shares = distributed.draw_rows(
                lambda rows: uniform_start(torch.Size([rows, *x.shape[1:]]), 1.0, x), len(x)
            )
            return x + shares * eps

        with net.evaluating():
            logits = net.frozen()
            runs = [
                torch.clamp(self._ascend(logits, start(), y, eps, lower, upper), lower, upper)
                for _ in range(self.restarts)
            ]
            if self.restarts == 1:
                return runs[0] - x
            with torch.no_grad():
                losses = [F.cross_entropy(logits(z), y, reduction="none") for z in runs]
        best = torch.stack(losses).argmax(0)
        return torch.stack(runs)[best, torch.arange(len(x), device=x.device)] - x

    def _ascend(
        self, net: Frozen, start: Tensor, y: Tensor, eps: Scalar, lower: Tensor, upper: Tensor
    ) -> Tensor:
        """Ascend from ``start`` between ``lower`` and ``upper``, in the network's coordinates."""
        at = net.coordinates
        low, high = at.enter(lower), at.enter(upper)
        last = ascend(
            lambda z: net.gradient(z, y),
            lambda z: torch.clamp(z, low, high),
            at.enter(start),
            at.radius(self.step_size * eps, start),
            self.steps,
        )
        return at.leave(last)
