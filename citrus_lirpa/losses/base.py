"""What every training loss returns, and the loss while ε is still zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bounds import BoundedNet
from ..boxes import Box, Range, Scalar, check_radius
from ..errors import InputError, unknown
from ..margins import check_labels

#: Radius of the boxes that stand in for points, where regularisers need bounds at ε = 0.
POINT_RADIUS = 1e-6
#: The bounds that are differentiable in the weights.
TRAINABLE = ("ibp", "crown-ibp", "crown")


@dataclass(frozen=True)
class LossTerms:
    """A loss and what it was computed from.

    total: scalar to minimise, with graph; logits: (B, K) of the clean batch; box: the
    boxes bounded; margins: (boxes, K-1) lower bounds on them, None while ε is zero.
    """

    total: Tensor
    logits: Tensor
    box: Box
    margins: Tensor | None = None

    def backward(self) -> None:
        """Gradients of ``total``, so that the terms stand where a loss tensor stood."""
        self.total.backward()

    def item(self) -> float:
        return self.total.item()

    def certified(self) -> Tensor:
        """Share of the boxes on which every margin is proved positive; NaN at ε = 0."""
        if self.margins is None:
            return torch.full((), float("nan"))
        return (self.margins.detach().min(dim=1).values > 0).float().mean()


def check_method(method: str) -> None:
    """Refuse bounds that are unknown or cannot be trained on."""
    if method not in TRAINABLE:
        raise InputError(unknown("method", method, TRAINABLE))


def check_batch(net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar, clip: Range | None) -> None:
    """Refuse what a training loss cannot use, each by one line that names the value."""
    check_radius(eps, "ε")
    if len(x) != len(y) or len(x) == 0:
        raise InputError(f"{len(x)} inputs but {len(y)} labels; expected as many, at least one")
    check_labels(y, net.classes)
    if clip is None:
        return
    lower, upper = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in clip)
    tolerance = 1e-5
    if not bool(((x >= lower - tolerance) & (x <= upper + tolerance)).all()):
        raise InputError(
            f"images range from {float(x.min()):.4g} to {float(x.max()):.4g}, outside the valid "
            f"range {clip[0]} to {clip[1]}; pass pixels in [0, 1], or clip=(lowest, highest) "
            "of your normalised data"
        )


def natural(net: BoundedNet, x: Tensor, y: Tensor, clip: Range | None) -> LossTerms:
    """Plain cross-entropy, the loss until the ε ramp begins."""
    logits = net(x)
    return LossTerms(F.cross_entropy(logits, y), logits, Box.around(x, POINT_RADIUS, clip))


def is_zero(eps: Scalar) -> bool:
    return not bool(torch.as_tensor(eps).any())
