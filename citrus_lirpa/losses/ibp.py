"""Plain certified training on the whole ε-box of each input: IBP, CROWN-IBP, CROWN."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..bounds.box import PIXELS, Ball
from ..bounds.checks import Range, Scalar
from ..bounds.margins import robust_cross_entropy
from ..bounds.net import BoundedNet
from .base import Loss, LossTerms, Stage, repeated
from .checks import check_max_eps, check_method


class Ibp(Loss):
    """Robust cross-entropy on B(x_i, ε), as a mean over the batch.

    Source: Gowal et al. 2018, On the Effectiveness of Interval Bound Propagation; the recipe
    around it is that of Shi et al. 2021, Fast Certified Robust Training with Short Warmup.

    Args:
        method: Bounds on the box: ``ibp``, ``crown-ibp`` or ``crown``.
        clip: Valid range of the inputs; None for no limits.
        norm: inf, or 2 for ℓ2 balls, which ``ibp`` bounds.
    """

    steps_alike = True

    def __init__(self, *, method: str = "ibp", clip: Range | None = PIXELS, norm: float = math.inf):
        super().__init__(clip, norm)
        check_method(method, norm)
        self.method = method

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of the ε-boxes."""
        logits = net(x)
        box = Ball(eps, self.clip, self.norm).box(x)
        bounds = net.bound_unchecked(box, y, self.method)
        total = robust_cross_entropy(bounds.margins).mean()
        return LossTerms(total, logits, box, bounds.margins, bounds=bounds)


class CrownIbp(Loss):
    """Robust cross-entropy of CROWN-IBP's bounds, which fade into IBP's while ε rises.

    margins = β·CROWN-IBP + (1 - β)·IBP with β = (ε_max - ε)/ε_max.

    Source: Zhang et al. 2020, Towards Stable and Efficient Training of Verifiably Robust Neural
    Networks.

    Args:
        max_eps: ε_max, the radius that the ramp ends with.
        clip: Valid range of the inputs; None for no limits.
    """

    #: The bounds that it trains on.
    method = "crown-ibp"

    def __init__(self, max_eps: float, *, clip: Range | None = PIXELS):
        super().__init__(clip)
        check_max_eps(max_eps)
        self.max_eps = max_eps

    def begin_step(self, net: BoundedNet, done: float, eps: float) -> Stage:
        """Say that all steps but those with CROWN-IBP are alike.

        In CROWN-IBP auto_LiRPA copies numbers to the GPU, which no CUDA graph can.
        """
        super().begin_step(net, done, eps)
        return Stage() if eps and self._share(eps) else repeated(self)

    def _share(self, eps: Scalar) -> float:
        """Return β at an ε; 0 where it differs from 0 by rounding alone."""
        now = float(torch.tensor(self.largest_eps(eps)))  # in float32, as in earlier runs
        beta = 1 - now / self.max_eps
        return beta if beta > 1e-6 else 0.0

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of the ε-boxes, by bounds of both kinds."""
        beta = self._share(eps)
        logits = net(x)
        box = Ball(eps, self.clip).box(x)
        bounds = net.bound_unchecked(box, y)
        margins = bounds.margins
        if beta > 0:
            bounds = net.bound_unchecked(box, y, "crown-ibp")
            margins = beta * bounds.margins + (1 - beta) * margins
        return LossTerms(robust_cross_entropy(margins).mean(), logits, box, margins, bounds=bounds)
