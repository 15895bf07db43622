"""One perturbation for a whole group of inputs: the upper bound of UAP accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..bounds import as_bounded_net
from ..boxes import Range, Scalar, check_radius, clamp
from ..errors import InputError
from ..margins import logit_margins
from .pgd import ascend, uniform_start


class GroupAttackResult(NamedTuple):
    """u: (G, 1, ...) one perturbation a group; broken: (G, N) inputs it misclassifies."""

    u: Tensor
    broken: Tensor


@dataclass(frozen=True)
class GroupAttack:
    """Joint L∞ attack: for each group, one u, |u| <= ε, that breaks many inputs at once.

    Minimises the sum of the inputs' smallest margins, each no longer pushed once it
    is broken by ``overshoot`` (in logits), and keeps the u of the step that broke
    most. The candidate inputs that cannot be broken may be masked out. A lower
    bound of the damage one perturbation can do, so an upper bound of UAP accuracy.
    """

    steps: int = 50
    step_size: float = 0.25
    restarts: int = 3
    overshoot: float = 0.1
    clip: Range | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.step_size <= 0:
            raise InputError(
                f"GroupAttack with {self.steps} steps of size {self.step_size} and "
                f"{self.restarts} restarts; expected all of them positive"
            )

    def __call__(
        self, net: object, x: Tensor, y: Tensor, eps: Scalar, open_: Tensor | None = None
    ) -> GroupAttackResult:
        """x: (G, N, ...) groups of inputs; y: (G, N); open_: (G, N) inputs worth attacking."""
        check_radius(eps, "ε")
        net = as_bounded_net(net)
        groups, size = y.shape
        worth = torch.ones_like(y, dtype=torch.bool) if open_ is None else open_
        best_u = torch.zeros_like(x[:, :1])
        best = torch.full((groups,), -1, device=x.device)
        broken = torch.zeros_like(worth)
        weight = torch.ones_like(y, dtype=x.dtype)

        def objective(u: Tensor) -> Tensor:
            nonlocal best_u, best, broken
            logits = net(clamp(x + u, self.clip).flatten(0, 1))
            margin = logit_margins(logits, y.flatten()).min(dim=1).values.view(groups, size)
            now = margin.detach() < 0
            score = (now & worth).sum(1)
            better = score > best
            best = torch.where(better, score, best)
            broken = torch.where(better.unsqueeze(1), now, broken)
            best_u = torch.where(better.view(-1, *[1] * (u.ndim - 1)), u.detach(), best_u)
            return -(margin.clamp(min=-self.overshoot) * worth * weight).sum()

        with net.evaluating():
            for restart in range(self.restarts):
                if restart:  # inputs pulling in opposite directions would hold each other still
                    weight = torch.rand_like(weight)
                start = uniform_start(best_u.shape, eps, x)
                last = ascend(
                    objective,
                    lambda u: clamp(u, (-eps, eps)),
                    start,
                    self.step_size * eps,
                    self.steps,
                )
                with torch.no_grad():
                    objective(last)
        return GroupAttackResult(best_u, broken)
