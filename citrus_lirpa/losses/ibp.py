"""Plain certified training on the whole ε-box of each input: IBP, CROWN-IBP, CROWN."""

from __future__ import annotations

import torch
from torch import Tensor

from ..bounds.box import PIXELS, Box
from ..bounds.checks import Range, Scalar, is_number, shown
from ..bounds.margins import robust_cross_entropy
from ..bounds.net import BoundedNet
from ..errors import InputError
from .base import Loss, LossTerms, check_method


class Ibp(Loss):
    """Robust cross-entropy on B(x_i, ε), mean over the batch: the baseline of Shi et al. 2021.

    method: bounds on the box, ``ibp`` (default), ``crown-ibp`` or ``crown``.
    """

    def __init__(self, *, method: str = "ibp", clip: Range | None = PIXELS):
        super().__init__(clip)
        check_method(method)
        self.method = method

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        logits = net(x)
        box = Box.around(x, eps, self.clip)
        margins = net.margins(box, y, self.method)
        return LossTerms(robust_cross_entropy(margins).mean(), logits, box, margins)


class CrownIbp(Loss):
    """CROWN-IBP's bounds while ε rises, fading into IBP's (Zhang et al. 2020).

    margins = β·CROWN-IBP + (1 - β)·IBP with β = (ε_max - ε)/ε_max.
    max_eps: ε_max, the radius that the ramp ends with.
    """

    def __init__(self, max_eps: float, *, clip: Range | None = PIXELS):
        super().__init__(clip)
        check_max_eps(max_eps)
        self.max_eps = max_eps

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        beta = max(0.0, 1 - largest(eps) / self.max_eps)
        logits = net(x)
        box = Box.around(x, eps, self.clip)
        margins = net.margins(box, y, "ibp")
        if beta > 0:
            margins = beta * net.margins(box, y, "crown-ibp") + (1 - beta) * margins
        return LossTerms(robust_cross_entropy(margins).mean(), logits, box, margins)


def check_max_eps(max_eps: float) -> None:
    if not (is_number(max_eps) and max_eps > 0):
        raise InputError(
            f"max_eps is {shown(max_eps)}; expected the ε > 0 that the ramp ends with "
            "(of a run: train.eps times train.eps_factor)"
        )


def largest(eps: Scalar) -> float:
    return float(torch.as_tensor(eps).max())
