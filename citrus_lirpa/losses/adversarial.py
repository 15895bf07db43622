"""Losses without certificates: plain cross-entropy, PGD training, universal training."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..attacks import PGD
from ..bounds.box import PIXELS, Box, clamp
from ..bounds.checks import Range, Scalar
from ..bounds.net import BoundedNet
from .base import POINT_RADIUS, Attack, Loss, LossTerms, natural, with_range
from .universal import Universal


class CrossEntropy(Loss):
    """Plain cross-entropy on the clean inputs, whatever ε is."""

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        return natural(net, x, y, self.clip)


class Adversarial(Loss):
    """Cross-entropy on each input's own adversarial example (Madry et al. 2018).

    attack: PGD of 10 steps by default.
    """

    def __init__(self, *, attack: Attack | None = None, clip: Range | None = PIXELS):
        super().__init__(clip)
        self.attack = with_range(PGD(steps=10) if attack is None else attack, clip)

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        v = self.attack(net, x, y, eps)
        return _at_points(net, x, x + v, y, self.clip, v)


class Uat(Loss):
    """Cross-entropy on inputs that share a perturbation, which is kept from batch to batch.

    One backward pass gives the gradient that the weights descend and the one by whose sign
    the perturbation ascends (Shafahi et al. 2020, Universal Adversarial Training).
    per_class: one perturbation for each class, moved by its own class's inputs (Benz et al.
    2021, CW-UAT); step_size: of the perturbation, as a share of ε.
    """

    def __init__(
        self,
        *,
        per_class: bool = False,
        step_size: float = 0.25,
        clip: Range | None = PIXELS,
    ):
        super().__init__(clip)
        self.per_class = per_class
        self.universal = Universal(step_size)

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        u = self.universal(net.classes if self.per_class else 1, x, eps)
        points = clamp(x + (u[y] if self.per_class else u), self.clip)
        return _at_points(net, x, points, y, self.clip, u.detach())


def _at_points(
    net: BoundedNet, x: Tensor, points: Tensor, y: Tensor, clip: Range | None, tried: Tensor
) -> LossTerms:
    logits = net(points)
    box = Box.around(x, POINT_RADIUS, clip)
    return LossTerms(F.cross_entropy(logits, y), logits, box, perturbations=tried)
