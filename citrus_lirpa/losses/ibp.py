"""Plain certified training on the whole ε-box of each input: IBP, and CROWN variants."""

from __future__ import annotations

from torch import Tensor, nn

from ..bounds import as_bounded_net
from ..boxes import PIXELS, Box, Range, Scalar
from ..margins import robust_cross_entropy
from .base import LossTerms, check_batch, check_method, is_zero, natural


class Ibp(nn.Module):
    """Robust cross-entropy on B(x_i, ε), the baseline of Shi et al. 2021.

    method: bounds on the box, ``ibp`` (default), ``crown-ibp`` or ``crown``;
    clip: valid range of the inputs.
    """

    def __init__(self, *, method: str = "ibp", clip: Range | None = PIXELS):
        super().__init__()
        check_method(method)
        self.method, self.clip = method, clip

    def forward(self, net: object, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """x: (B, ...) inputs; y: (B,) labels; eps: radius. Mean over the batch."""
        net = as_bounded_net(net)
        check_batch(net, x, y, eps, self.clip)
        if is_zero(eps):
            return natural(net, x, y, self.clip)
        logits = net(x)
        box = Box.around(x, eps, self.clip)
        margins = net.margins(box, y, self.method)
        return LossTerms(robust_cross_entropy(margins).mean(), logits, box, margins)
