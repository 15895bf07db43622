"""What one perturbation breaks of each group of inputs that share it."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..attacks import GroupAttack, GroupAttackResult
from ..bounds.box import Ball
from ..bounds.deadline import time_is_over
from ..bounds.net import BoundedNet
from .certificates import Certificates, check_soundness
from .memory import in_batches
from .second_opinion import confirmed
from .unfinished import GroupState


class Groups:
    """Consecutive groups as rows (G, size); a shorter last one repeats its last input.

    ``real`` (G, size) is False where an input stands only to fill up.

    Args:
        count: Number of inputs.
        size: Inputs of a group.
        device: Where the inputs are.
    """

    def __init__(self, count: int, size: int, device: torch.device):
        rows = torch.arange(-(-count // size) * size, device=device).view(-1, size)
        self.real = rows < count
        self.rows = rows.clamp(max=count - 1)

    def count(self, mask: Tensor) -> Tensor:
        """Return how many inputs of each group ``mask`` (N,) holds; (G,)."""
        return (mask[self.rows] & self.real).sum(dim=1)

    def members(self, group: int) -> Tensor:
        """Return the numbers of a group's inputs."""
        return self.rows[group][self.real[group]]


class Damage:
    """The worst perturbation met of each group, and what it breaks.

    Args:
        net: The network.
        ball: The perturbations.
        x: (N, ...) inputs.
        y: (N,) labels.
        groups: Which inputs share a perturbation.
        certificates: Of the inputs, each alone.
        state: Holds the perturbations, and what they break.
    """

    def __init__(
        self,
        net: BoundedNet,
        ball: Ball,
        x: Tensor,
        y: Tensor,
        groups: Groups,
        certificates: Certificates,
        state: GroupState,
    ):
        self.net, self.ball, self.x, self.y = net, ball, x, y
        self.groups, self.certificates, self.state = groups, certificates, state

    @property
    def broken(self) -> Tensor:
        """Inputs that the perturbation of their group misclassifies; (N,)."""
        return self.state.broken

    def attack(self, attack: GroupAttack, which: Tensor, at_once: int, bar: tqdm) -> None:
        """Find one perturbation for each of the groups ``which`` (n,), all with open inputs."""
        groups, open_ = self.groups, self.certificates.open

        def attacked(now: Tensor) -> GroupAttackResult:
            rows = groups.rows[now]
            worth = open_[rows] & groups.real[now]
            return attack(self.net, self.x[rows], self.y[rows], self.ball.eps, worth)

        met = self.broken.clone()  # by any perturbation, also by those that are not adopted
        bar.reset(total=len(which))
        for now, result in in_batches(attacked, which, at_once, bar.update):
            if result is not None:  # a group that does not fit stays unattacked
                for g, u, broken in zip(now.tolist(), result.u[:, 0], result.broken, strict=True):
                    broken = self._confirmed(g, u, broken[groups.real[g]])
                    met[groups.members(g)] |= broken
                    self._keep(g, u, broken)
            self.state.attacked[now] = True
        check_soundness(self.certificates, met)

    def adopt_single_attacks(self) -> None:
        """Try on their groups what broke single inputs."""
        size = self.groups.rows.shape[1]
        for i, v in zip(self.certificates.attacked.nonzero(), self.certificates.v, strict=True):
            self.adopt(int(i) // size, v)
            if time_is_over():
                break
        check_soundness(self.certificates, self.broken)

    def adopt(self, group: int, u: Tensor) -> None:
        """Take a perturbation that was met, if it breaks more of the group."""
        rows = self.groups.members(group)
        with torch.no_grad():
            logits = self.net(self.ball.cut(self.x[rows] + u))
        self._keep(group, u, self._confirmed(group, u, logits.argmax(1) != self.y[rows]))

    def _confirmed(self, group: int, u: Tensor, broken: Tensor) -> Tensor:
        """Return which inputs of a group a perturbation breaks, by a second opinion."""
        rows, certificates = self.groups.members(group), self.certificates
        given = self.net, self.ball, self.x[rows], self.y[rows], u, broken
        return confirmed(*given, certificates.certified[rows], certificates.arithmetic)

    def _keep(self, group: int, u: Tensor, broken: Tensor) -> None:
        """Take u, which misclassifies ``broken`` of the group's inputs, if those are more."""
        rows = self.groups.members(group)
        broken = broken | ~self.certificates.correct[rows]
        if int(broken.sum()) > int(self.broken[rows].sum()):
            self.state.u[group], self.state.broken[rows] = u, broken
