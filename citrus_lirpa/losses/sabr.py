"""SABR: certified training on a small box around each input's own adversarial example."""

from __future__ import annotations

import math

from torch import Tensor

from ..attacks import PGD
from ..bounds.box import PIXELS, Ball, Box, clamp
from ..bounds.checks import Range, Scalar
from ..bounds.margins import robust_cross_entropy
from ..bounds.net import BoundedNet
from .base import Attack, Loss, LossTerms, perturb
from .checks import check_share


class Sabr(Loss):
    """Robust cross-entropy on a small box near each input's own adversarial example.

    The box of radius τ lies inside B(x_i, ε), as near as it can to the example. In ℓ2 it is the
    ball B(x_i + v, τ) cut to the range, for ‖v‖₂ <= ε - τ.

    Source: Müller et al. 2023, Certified Training: Small Boxes are All You Need, section 3.

    Args:
        tau_ratio: τ/ε: the radius of the boxes as a share of ε, in (0, 1].
        attack: Finds the adversarial examples; PGD of 8 steps by default.
        clip: Valid range of the inputs; None for no limits.
        norm: The norm of the perturbations, inf or 2.
    """

    steps_alike = True
    default_attack = PGD(steps=8)

    def __init__(
        self,
        tau_ratio: float,
        *,
        attack: Attack | None = None,
        clip: Range | None = PIXELS,
        norm: float = math.inf,
    ):
        super().__init__(clip, norm)
        self.attack = self.choose_attack(attack)
        self.small_box = SmallBox(tau_ratio, clip, norm)

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of the small boxes."""
        v = perturb(self.attack, net, x, y, eps)
        box = self.small_box(x, v, eps)
        logits = net(x)
        bounds = net.bound_unchecked(box, y)
        total = robust_cross_entropy(bounds.margins).mean()
        return LossTerms(total, logits, box, bounds.margins, v, bounds)


class SmallBox:
    """Draws the boxes of SABR, on which STAPS trains too.

    Args:
        tau_ratio: Their radius τ as a share of ε, in (0, 1].
        clip: The range of pixels; None for no cut.
        norm: That ε is of, inf or 2.
    """

    def __init__(self, tau_ratio: float, clip: Range | None, norm: float = math.inf):
        check_share(tau_ratio, "tau_ratio", "the box radius τ cannot exceed ε")
        self.tau_ratio, self.clip, self.norm = tau_ratio, clip, norm

    def __repr__(self) -> str:
        return f"SmallBox(tau_ratio={self.tau_ratio!r})"

    def __call__(self, x: Tensor, v: Tensor, eps: Scalar) -> Box:
        """Draw the boxes (B, ...) of a batch, each towards its perturbation ``v``.

        centre = clamp(x + v, LB + τ, UB - τ), where [LB, UB] is the ε-box in the valid range. In ℓ2
        v is shortened to ε - τ, so that the ball of radius τ is within the ball of radius ε.
        """
        tau = self.tau_ratio * eps
        if self.norm == 2:
            shorter = Ball(eps - tau, self.clip, 2.0)
            return Ball(tau, self.clip, 2.0).box(shorter.cut(x + shorter.project(v)))
        whole = Ball(eps, self.clip).box(x)
        centre = clamp(x + v, (whole.lower + tau, whole.upper - tau))
        return Ball(tau, whole).box(centre)
