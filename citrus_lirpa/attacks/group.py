"""One perturbation for a whole group of inputs: what it breaks at most, and at least."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .. import distributed
from ..bounds.box import Ball, clamp
from ..bounds.checks import (
    Range,
    Scalar,
    check_count,
    check_fits,
    check_radius,
    check_range,
    check_tensor,
    is_number,
)
from ..bounds.deadline import time_is_over
from ..bounds.frozen import gradient_of
from ..bounds.inputs import check_labelled, outside_inference, taking_data
from ..bounds.margins import logit_margins, robust_cross_entropy
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.norms import check_norm
from ..bounds.radius import as_type
from ..errors import expect
from .pgd import PGD, ascend, check_step_size, uniform_start


class GroupAttackResult(NamedTuple):
    """The outcome of an attack on G groups of N inputs.

    Args:
        u: (G, 1, ...) one perturbation for each group.
        broken: (G, N) whether the input is misclassified with it.
    """

    u: Tensor
    broken: Tensor


@dataclass(frozen=True)
class GroupAttack:
    """Joint attack: one u for each group, ‖u‖ <= ε, that breaks many inputs at once.

    Each restart begins at a random corner of the ball (in ℓ2, in the direction of one) and draws
    new weights for the inputs; alike, inputs that pull in opposite directions would cancel out. It
    pushes each input until that is broken by ``overshoot``: every other restart by its smallest
    margin, the rest by its cross-entropy, because each finds what the other misses. The attack
    keeps the u of the step that broke most. Groups with nothing left to break take no more
    restarts. The result is a lower bound of the damage that one perturbation can do, hence an
    upper bound of UAP accuracy.

    Args:
        steps: Gradient steps of a restart.
        step_size: First step as a share of ε; it shrinks as in :class:`PGD`.
        restarts: Random starts.
        overshoot: Margin, in logits, by which an input must be broken to be pushed no further.
        momentum: Share of the earlier direction that is added to each gradient.
        clip: Range that perturbed inputs are cut to; None for no cut.
        norm: The norm of the perturbations, inf or 2.
    """

    steps: int = 50
    step_size: float = 1.0
    restarts: int = 10
    overshoot: float = 0.005
    momentum: float = 0.75
    clip: Range | None = None
    norm: float = math.inf

    def __post_init__(self) -> None:
        check_norm(self.norm)
        check_count(self.steps, "GroupAttack.steps")
        check_count(self.restarts, "GroupAttack.restarts")
        check_step_size(self.step_size)
        forgets = is_number(self.momentum) and 0 <= self.momentum < 1
        expect(forgets, "momentum", self.momentum, "at least 0 and less than 1")
        expect(is_number(self.overshoot), "overshoot", self.overshoot, "a number of logits")
        check_range(self.clip)

    @outside_inference
    @taking_data
    def __call__(
        self, net: object, x: Tensor, y: Tensor, eps: Scalar, open_: Tensor | None = None
    ) -> GroupAttackResult:
        """Attack every group.

        The network runs in eval mode, and its mode is restored.

        Args:
            net: BoundedNet, or an auto_LiRPA BoundedModule.
            x: Groups of inputs (G, N, ...).
            y: Labels (G, N).
            eps: Radius ε in pixels, a number or a tensor that broadcasts to an input.
            open_: (G, N) inputs that are worth attacking; None for all.

        Returns:
            The perturbations, zero for a group of which no open input breaks, and what they
            break.

        Raises:
            InputError: A value cannot be used.
        """
        eps = check_radius(eps, "ε")
        net = as_bounded_net(net)
        self._check(net, x, y, eps, open_)
        ball = Ball(as_type(eps, x), self.clip, self.norm)
        worth = torch.ones_like(y, dtype=torch.bool) if open_ is None else open_
        u = torch.zeros_like(x[:, 0])
        most = torch.zeros_like(y[:, 0])
        with net.evaluating():
            for restart in range(self.restarts):
                unfinished = (most < worth.sum(dim=1)).nonzero().squeeze(1)
                if len(unfinished) == 0 or (restart and time_is_over()):
                    break
                now = worth[unfinished]
                found, count = self._ascend(
                    net,
                    x[unfinished][now],
                    y[unfinished][now],
                    ball,
                    group=now.nonzero()[:, 0],
                    groups=len(unfinished),
                    by_margin=restart % 2 == 0,
                )
                better = count > most[unfinished]
                u[unfinished[better]] = found[better]
                most[unfinished[better]] = count[better]
            with torch.no_grad():
                logits = net(ball.cut(x + u.unsqueeze(1)).flatten(0, 1))
        return GroupAttackResult(u.unsqueeze(1), logits.argmax(dim=1).view(y.shape) != y)

    @classmethod
    def like(cls, attack: PGD) -> GroupAttack:
        """Return an attack on groups with the steps, restarts and range of one on inputs."""
        return cls(
            attack.steps, attack.step_size, attack.restarts, clip=attack.clip, norm=attack.norm
        )

    def perturb(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> Tensor:
        """Find one perturbation for each group of a batch that was checked before, as losses do.

        Args:
            net: The network; it runs in eval mode, and its mode is restored.
            x: Groups of inputs (G, N, ...).
            y: Labels (G, N).
            eps: Radius ε in pixels, a number or a tensor that broadcasts to an input.

        Returns:
            (G, ...) the perturbation of the step that broke most inputs of the group; of the last
            step where none was broken.

        Raises:
            InputError: ``eps`` is not the same for all inputs.
        """
        groups, size = x.shape[:2]
        check_fits(eps, x[:1, 0], "ε of inputs that share a perturbation")
        group = torch.arange(groups, device=x.device).repeat_interleave(size)
        ball = Ball(eps, self.clip, self.norm)
        x, y = x.detach().flatten(0, 1), y.flatten()
        with net.evaluating():
            found = [
                self._ascend(
                    net, x, y, ball, group=group, groups=groups, by_margin=restart % 2 == 0
                )
                for restart in range(self.restarts)
            ]
        u, broken = (torch.stack(part) for part in zip(*found, strict=True))
        return u[broken.argmax(dim=0), torch.arange(u.shape[1], device=u.device)]

    def _check(
        self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar, open_: Tensor | None
    ) -> None:
        check_tensor(x, "x")
        grouped = isinstance(y, Tensor) and y.ndim == 2 and x.ndim >= 2 and x.shape[:2] == y.shape
        expect(grouped, f"inputs are {tuple(x.shape)}, y", y, "(G, N, ...) and (G, N)")
        check_labelled(net, x.flatten(0, 1), y.flatten())
        check_norm(self.norm, eps)
        for value, name in ((eps, "ε"), (self.clip, "clip")):
            check_fits(value, x[0], name)
        mask = isinstance(open_, Tensor) and open_.dtype == torch.bool and open_.shape == y.shape
        expect(open_ is None or mask, "open_", open_, f"torch.bool of shape {tuple(y.shape)}")

    def _ascend(
        self,
        net: BoundedNet,
        x: Tensor,
        y: Tensor,
        ball: Ball,
        *,
        group: Tensor,
        groups: int,
        by_margin: bool,
    ) -> tuple[Tensor, Tensor]:
        """Ascend once on inputs (M, ...) with labels (M,), ``group`` (M,) of ``groups`` each.

        Return the u of the step that broke most, of the last one where none was broken, and how
        many it broke, for each group.
        """
        logits = net.frozen()
        weight, corners = _drawn(x, groups)
        start = corners * ball.eps
        best = torch.zeros_like(start)
        most = group.new_zeros(len(start))

        def objective(u: Tensor) -> Tensor:
            nonlocal best, most
            margins = logit_margins(logits(ball.cut(x + u[group])), y)
            smallest = margins.min(dim=1).values
            broken = (smallest.detach() < 0).to(most.dtype)
            count = torch.zeros_like(most).index_add(0, group, broken)
            better = (count > most).view(-1, *[1] * (u.ndim - 1))
            best = torch.where(better, u.detach(), best)
            most = torch.maximum(most, count)
            loss = -smallest if by_margin else robust_cross_entropy(margins)
            # of all, as a selection would make the host wait for a GPU
            return torch.where(smallest > -self.overshoot, loss * weight, 0.0).sum()

        step = self.step_size * ball.eps
        last = ascend(
            *(gradient_of(objective), ball.project, start, step, self.steps, self.momentum),
            towards=ball.direction,
        )
        with torch.no_grad():
            objective(last)
        return torch.where((most > 0).view(-1, *[1] * (x.ndim - 1)), best, last), most


def _drawn(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Draw a weight for each input (M, ...), and a corner of the cube for each group."""
    weights = distributed.draw_rows(
        lambda rows: torch.empty(rows, dtype=x.dtype, device=x.device).exponential_(), len(x)
    )
    corners = distributed.draw_rows(
        lambda rows: uniform_start((rows, *x.shape[1:]), x).sign(), groups
    )
    return weights, corners


def kappa(net: object, x: Tensor, y: Tensor, v: Tensor, clip: Range | None) -> int:
    """Count the inputs that the most harmful one of several perturbations breaks.

    The count is a lower bound of κ (Xu & Singh 2024, Definition 2): perturbations that break k
    inputs are k-common, and where κ >= 2 the worst universal perturbation is among the 2-common
    ones, for which cross-input boxes are drawn. Inputs that are misclassified without any
    perturbation do not count. The network runs in eval mode, and its mode is restored.

    Args:
        net: BoundedNet, or an auto_LiRPA BoundedModule.
        x: Inputs (B, ...).
        y: Labels (B,).
        v: Perturbations (P, ...).
        clip: Range that perturbed inputs are cut to; None for no cut.
    """
    return int(breaks(net, x, y, v, clip).sum(dim=1).max())


@torch.no_grad()
def breaks(net: object, x: Tensor, y: Tensor, v: Tensor, clip: Range | None) -> Tensor:
    """Tell which perturbation breaks which input, as :func:`kappa` counts them; bool (P, B)."""
    net = as_bounded_net(net)
    with net.evaluating():
        correct = net(x).argmax(1) == y
        return torch.stack([correct & (net(clamp(x + one, clip)).argmax(1) != y) for one in v])
