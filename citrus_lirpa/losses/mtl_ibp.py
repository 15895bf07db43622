"""MTL-IBP, CC-IBP and EXP-IBP: IBP's bounds mixed with an adversarial example's values."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attacks import PGD
from ..bounds.box import PIXELS, Ball
from ..bounds.checks import Range, Scalar, check_positive
from ..bounds.margins import logit_margins, robust_cross_entropy
from ..bounds.net import BoundedNet
from .base import Attack, Loss, LossTerms, perturb
from .checks import check_share


class MtlIbp(Loss):
    """α·L_IBP + (1 - α)·L_adv.

    Source: De Palma et al. 2024, Expressive Losses for Verified Robustness via Convex
    Combinations, section 4.2.

    Args:
        alpha: Weight α of the bounds, in (0, 1].
        attack: Finds the adversarial examples; one step to the border of the ball by default.
        attack_ratio: Radius of the attack as a multiple of ε, the radius of the boxes.
        clip: Valid range of the inputs; None for no limits.
    """

    steps_alike = True
    default_attack = PGD(steps=1, step_size=10.0)

    def __init__(
        self,
        alpha: float,
        *,
        attack: Attack | None = None,
        attack_ratio: float = 1.0,
        clip: Range | None = PIXELS,
    ):
        super().__init__(clip)
        check_share(alpha, "alpha", "the weight of the bounds")
        check_positive(attack_ratio, "attack_ratio")
        self.alpha, self.attack_ratio = alpha, attack_ratio
        self.attack = self.choose_attack(attack)

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of the ε-boxes and of the attacked inputs."""
        v = perturb(self.attack, net, x, y, self.attack_ratio * eps)
        logits = net(x)
        attacked = logit_margins(net.logits(x + v), y)
        box = Ball(eps, self.clip).box(x)
        bounds = net.bound_unchecked(box, y)
        total = self.combine(bounds.margins, attacked).mean()
        return LossTerms(total, logits, box, bounds.margins, v, bounds)

    def combine(self, bounds: Tensor, attacked: Tensor) -> Tensor:
        """Combine lower bounds of margins (B, K-1) and margins under attack into losses (B,)."""
        ibp, adversarial = robust_cross_entropy(bounds), robust_cross_entropy(attacked)
        return self.alpha * ibp + (1 - self.alpha) * adversarial


class CcIbp(MtlIbp):
    """The loss at α·bounds + (1 - α)·margins under attack; otherwise as :class:`MtlIbp`.

    Source: De Palma et al. 2024, section 4.1.
    """

    def combine(self, bounds: Tensor, attacked: Tensor) -> Tensor:
        """Take the loss of the mixed margins."""
        return robust_cross_entropy(self.alpha * bounds + (1 - self.alpha) * attacked)


class ExpIbp(MtlIbp):
    """L_IBP^α · L_adv^(1 - α) for each input; otherwise as :class:`MtlIbp`.

    Source: De Palma et al. 2024, section 4.3.
    """

    def combine(self, bounds: Tensor, attacked: Tensor) -> Tensor:
        """Multiply powers of the two losses."""
        # a power has no gradient at 0, which the loss of a confident network rounds to
        smallest = torch.finfo(bounds.dtype).eps ** 2
        ibp, adversarial = (
            robust_cross_entropy(margins).clamp(min=smallest) for margins in (bounds, attacked)
        )
        return ibp**self.alpha * adversarial ** (1 - self.alpha)
