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
from ..bounds.frozen import Frozen, gradient_of
from ..bounds.inputs import check_labelled, outside_inference, taking_data
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.norms import check_norm
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
    towards: Callable[[Tensor], Tensor] = torch.sign,
) -> Tensor:
    """Ascend a scalar function by steps of one length, projecting after every step.

    At a deadline (:mod:`..bounds.deadline`) it ends with the value that it has.

    Args:
        gradient: Its gradient, as ``gradient_of`` gives it, at a variable shaped as ``start``.
        project: Projection onto the set that the variable stays in.
        start: First value; it is projected too.
        step: Length of the first step, a number or a tensor that broadcasts to ``start``.
        steps: Number of gradient steps.
        momentum: Share of the earlier direction that is added to each gradient.
        decay: Shares of the steps; after each of them the step shrinks tenfold.
        towards: Makes the steps of gradients, as new tensors: their signs for ∞.

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
        v = project(towards(direction).mul_(step * shrink).add_(v))
    return v


def check_step_size(value: float) -> None:
    """Raise InputError unless ``value`` is a number > 0."""
    check_positive(value, "step_size", "a number > 0, as a share of ε")


def check_attack(
    net: object, x: Tensor, y: Tensor, ball: Ball, *, anywhere: bool = False
) -> tuple[BoundedNet, Scalar]:
    """Return the network and ε of an attack; raise InputError where inputs or ball do not fit.

    With ``anywhere`` the inputs may be on another device than the network.
    """
    network, eps = as_bounded_net(net), check_radius(ball.eps, "ε")
    check_labelled(network, x, y, anywhere=anywhere)
    check_fits(eps, x, "ε")
    check_norm(ball.norm, eps)
    check_fits(ball.clip, x, "clip")
    return network, eps


def uniform_start(shape: Sequence[int], like: Tensor) -> Tensor:
    """Draw from [-1, 1]^shape uniformly, in the type and on the device of ``like``."""
    return torch.empty(shape, dtype=like.dtype, device=like.device).uniform_(-1, 1)


@dataclass(frozen=True)
class PGD:
    """Untargeted PGD on the cross-entropy, with a perturbation for each input.

    Steps are along the signs of gradients in the L∞ ball, along the gradients in the ℓ2 ball.

    Source: Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks.

    Args:
        steps: Gradient steps.
        step_size: First step as a share of ε; it shrinks tenfold after 50, 80 and 90 % of the
            steps.
        restarts: Random starts; each input keeps the one with its highest loss.
        clip: Range that x + v stays in; None for no limits. A loss that is given a PGD replaces
            it by its own range.
        norm: The norm of the perturbations, inf or 2. A loss replaces it by its own norm too.
    """

    steps: int = 20
    step_size: float = 0.5
    restarts: int = 1
    clip: Range | None = PIXELS
    norm: float = math.inf

    def __post_init__(self) -> None:
        check_count(self.steps, "PGD.steps", 0)
        check_count(self.restarts, "PGD.restarts")
        check_step_size(self.step_size)
        check_range(self.clip)
        check_norm(self.norm)

    def within(self, clip: Range | None, norm: float = math.inf) -> PGD:
        """Return the same attack with another valid range of the inputs, and in another norm."""
        return replace(self, clip=clip, norm=norm)

    @staticmethod
    def sign_step(clip: Range | None = PIXELS, norm: float = math.inf) -> PGD:
        """Return an attack of one step, across the whole ball: to where the gradient points."""
        return PGD(steps=1, step_size=2.0, clip=clip, norm=norm)

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
            Perturbations v, shaped as ``x`` and detached, with ‖v‖ <= eps and x + v in the
            range, up to the rounding of x.

        Raises:
            InputError: A value cannot be used.
        """
        network, eps = check_attack(net, x, y, Ball(eps, self.clip, self.norm))
        return self.perturb(network, x, y, as_type(eps, x))

    def perturb(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> Tensor:
        """Find the same perturbations for a batch that was checked before, as losses do."""
        x = x.detach()
        ball = Ball(eps, self.clip, self.norm)
        lower, upper = ball.box(x)

        def start() -> Tensor:
            shares = distributed.draw_rows(
                lambda rows: uniform_start((rows, *x.shape[1:]), x), len(x)
            )
            return x + shares * eps

        def run() -> Tensor:
            if self.norm == 2:
                return self._ascend_round(logits, start(), x, y, ball)
            return torch.clamp(self._ascend(logits, start(), y, eps, lower, upper), lower, upper)

        with net.evaluating():
            logits = net.frozen()
            runs = [run() for _ in range(self.restarts)]
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

    def _ascend_round(self, net: Frozen, start: Tensor, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """Ascend from ``start`` in the ℓ2 balls around ``x``, in pixels."""

        def into(z: Tensor) -> Tensor:
            return ball.cut(x + ball.project(z - x))

        gradient = gradient_of(lambda z: F.cross_entropy(net(z), y, reduction="sum"))
        step = self.step_size * ball.eps
        return ascend(gradient, into, start, step, self.steps, towards=ball.direction)
