"""The dual engine on a query, which branch and bound decides as it does a group of images."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor

from ...bounds.box import Ball
from ...bounds.net import BoundedNet
from ...bounds.precision import IN_FLOAT64
from ..crown.engine import DualEngine
from ..crown.joint_attack import JointAttack
from ..crown.relaxation import Images
from .attack import Attack


class QueryAttack(JointAttack):
    """Attacks on the one "image" of a query.

    Args:
        net: The joint network.
        ball: The perturbations.
        attack: Looks for what the query asks.

    Attributes:
        found: All numbers of the query at a perturbation with which it holds.
    """

    def __init__(self, net: BoundedNet, ball: Ball, attack: Attack):
        super().__init__(net, ball)
        self.attack = attack
        self.found: Mapping[str, list[Fraction]] | None = None

    def __call__(self, images: Images, members: Tensor, u: Tensor, steps: int) -> Tensor:
        """Return u (D, n) after some steps towards what the query asks."""
        return self.attack(u, steps)

    def broken(self, images: Images, members: Tensor, u: Tensor) -> Tensor:
        """Return whether the query holds with one of u (D, n), for each of its members (D, s)."""
        if self.found is None:
            self.found = self.attack.values(u)
        return torch.full(members.shape, self.found is not None)


class QueryEngine(DualEngine):
    """The dual engine on the one "image" of a query, whose margins are its rows.

    A tuple is a conjunction of rows; all its members are that image.

    Args:
        attack: On the query.
        rounds: Whether the rounding of the network counts as well, so that bounds must be
            further from zero.
    """

    attack: QueryAttack

    def __init__(self, attack: Attack, *, rounds: bool):
        net = BoundedNet(attack.joint, torch.zeros(2, attack.joint.size))
        super().__init__(net.eval(), Ball(1.0))
        self.size, self.attack = attack.joint.size, QueryAttack(net, self.ball, attack)
        # the numbers of a query are rounded to float32 before they become weights
        self.least = 1.0 if rounds else IN_FLOAT64

    def begin(self) -> Images:
        """Return the image, with IBP's bounds of ReLU inputs."""
        x = torch.zeros(1, self.size)
        c = torch.eye(self.net.classes)[None]
        return self.images(x, torch.zeros(1, dtype=torch.long), c)
