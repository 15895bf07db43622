"""The attack of branch and bound: one perturbation that is to break several images at once."""

from __future__ import annotations

import torch
from torch import Tensor

from ...attacks import ascend
from ...bounds.box import Ball
from ...bounds.frozen import gradient_of
from ...bounds.margins import logit_margins
from ...bounds.net import BoundedNet
from .relaxation import Images

#: It pushes no input further beyond its decision boundary than this, in logits.
_OVERSHOOT = 0.01


class JointAttack:
    """Attacks on images of one network that share a perturbation, and what they break.

    Args:
        net: The network.
        ball: The perturbations.
    """

    def __init__(self, net: BoundedNet, ball: Ball):
        self.net, self.ball = net, ball

    def __call__(self, images: Images, members: Tensor, u: Tensor, steps: int) -> Tensor:
        """Return u (D, ...) after some steps of joint ascent from it, |u| <= ε.

        Args:
            images: The images.
            members: (D, s) the images to break together.
            u: (D, ...) where each ascent begins.
            steps: How many.
        """
        x, y = images.x[members], images.y[members].flatten()

        def objective(u: Tensor) -> Tensor:
            logits = self.net(self.ball.cut(x + u.unsqueeze(1)).flatten(0, 1))
            margins = logit_margins(logits, y).min(dim=1).values
            return -margins.clamp(min=-_OVERSHOOT).sum()

        project, towards = self.ball.project, self.ball.direction
        step = self.ball.radius(u) / 4
        return ascend(gradient_of(objective), project, u, step, steps, towards=towards)

    @torch.no_grad()
    def negative(self, images: Images, members: Tensor, u: Tensor) -> Tensor:
        """Return which margins (n, K-1) of ``members`` (n,) are negative under u (...)."""
        logits = self.net(self.ball.cut(images.x[members] + u))
        return logit_margins(logits, images.y[members]) < 0

    @torch.no_grad()
    def broken(self, images: Images, members: Tensor, u: Tensor) -> Tensor:
        """Return whether each of ``members`` (D, s) is misclassified under its u (D, ...)."""
        moved = self.ball.cut(images.x[members] + u.unsqueeze(1))
        logits = self.net(moved.flatten(0, 1))
        return (logits.argmax(1) != images.y[members].flatten()).view(members.shape)
