"""Losses that bound nothing: plain cross-entropy, PGD training, universal training."""

from __future__ import annotations

from torch import Tensor

from ..attacks import PGD
from ..bounds.box import PIXELS, clamp
from ..bounds.checks import Range, Scalar
from ..bounds.net import BoundedNet
from .base import Attack, Loss, LossTerms, at_points, natural, perturb
from .universal import Universal


class CrossEntropy(Loss):
    """Plain cross-entropy on the clean inputs, at every ε.

    Args:
        clip: Valid range of the inputs; None for no limits.
    """

    needs_ramp, steps_alike = False, True

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of the clean inputs."""
        return natural(net, x, y, self.clip)


class Adversarial(Loss):
    """Cross-entropy on each input's own adversarial example.

    Source: Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks,
    equation 2.1.

    Args:
        attack: Finds the perturbations; PGD of 10 steps by default.
        clip: Valid range of the inputs; None for no limits.
    """

    needs_ramp, steps_alike = False, True
    default_attack = PGD(steps=10)

    def __init__(self, *, attack: Attack | None = None, clip: Range | None = PIXELS):
        super().__init__(clip)
        self.attack = self.choose_attack(attack)

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of the attacked inputs."""
        v = perturb(self.attack, net, x, y, eps)
        return at_points(net, x, x + v, y, self.clip, v)


class Uat(Loss):
    """Cross-entropy on inputs that share a perturbation, which is kept from batch to batch.

    One backward pass gives both the gradient that the weights descend and the gradient by whose
    sign the perturbation ascends.

    Source: Shafahi et al. 2020, Universal Adversarial Training; Benz et al. 2021, Universal
    Adversarial Training with Class-Wise Perturbations.

    Args:
        per_class: Keep one perturbation for each class, which its own inputs alone move (CW-UAT).
        step_size: Step of the perturbation, as a share of ε.
        clip: Valid range of the inputs; None for no limits.
    """

    needs_ramp, steps_alike = False, True

    def __init__(
        self, *, per_class: bool = False, step_size: float = 0.25, clip: Range | None = PIXELS
    ):
        super().__init__(clip)
        self.per_class = per_class
        self.universal = Universal(step_size)

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of the inputs under the perturbation that they share."""
        u = self.universal(net.classes if self.per_class else 1, x, eps)
        points = clamp(x + (u[y] if self.per_class else u), self.clip)
        return at_points(net, x, points, y, self.clip, u.detach())
