"""What every training loss is and returns, and the loss while ε is still zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks import PGD
from ..bounds.box import PIXELS, Box
from ..bounds.checks import (
    Range,
    Scalar,
    check_fits,
    check_name,
    check_radius,
    check_range,
    is_number,
    shown,
)
from ..bounds.inputs import check_labelled
from ..bounds.net import BoundedNet, as_bounded_net
from ..errors import InputError

#: Radius of the boxes that stand in for points, where regularisers need bounds at ε = 0.
POINT_RADIUS = 1e-6
#: The bounds that are differentiable in the weights.
TRAINABLE = ("ibp", "crown-ibp", "crown")


#: (net, x, y, eps) -> perturbations v, shaped as x
Attack = Callable[[BoundedNet, Tensor, Tensor, Scalar], Tensor]


@dataclass(frozen=True)
class LossTerms:
    """A loss and what it was computed from.

    total: scalar to minimise, with graph; logits: (B, K) of the batch's forward pass, on the
    clean inputs, or on the perturbed ones for methods that train on nothing else; box: the
    boxes bounded; margins: (boxes, K-1) lower bounds on them, None where none were needed;
    perturbations: (P, ...) those tried on the batch, None without an attack.
    """

    total: Tensor
    logits: Tensor
    box: Box
    margins: Tensor | None = None
    perturbations: Tensor | None = None

    def backward(self) -> None:
        """Gradients of ``total``, so that the terms stand where a loss tensor stood."""
        self.total.backward()

    def item(self) -> float:
        return self.total.item()

    def __repr__(self) -> str:
        boxes = f", {100 * float(self.certified()):.2f} % certified"
        return (
            f"LossTerms(total {self.item():.4g}, {len(self.logits)} inputs, {len(self.box)} boxes"
            f"{'' if self.margins is None else boxes})"
        )

    def certified(self) -> Tensor:
        """Share of the boxes on which every margin is proved positive; NaN without margins."""
        if self.margins is None:
            return torch.full((), float("nan"))
        return (self.margins.detach().min(dim=1).values > 0).float().mean()


class Loss(nn.Module):
    """Base of all losses: ``loss(net, x, y, eps)`` checks the batch, then asks ``terms``.

    clip: valid range of the inputs, (0, 1) for pixels, tensors broadcastable to x for
    normalised data, None for no limits.
    """

    def __init__(self, clip: Range | None = PIXELS):
        super().__init__()
        check_range(clip)
        self.clip = clip

    def forward(self, net: object, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """x: (B, ...) inputs; y: (B,) labels; eps: radius ε, a number or per-channel tensor.

        ``net`` is a BoundedNet or the user's own BoundedModule, in train mode. Plain
        cross-entropy while eps is 0. Call ``.backward()`` on the result, once. Raises
        InputError on values that cannot be used.
        """
        net = as_bounded_net(net)
        eps = check_batch(net, x, y, eps, self.clip)
        if is_zero(eps):
            return natural(net, x, y, self.clip)
        return self.terms(net, x, y, eps)

    def extra_repr(self) -> str:
        """The hyper-parameters, for ``repr``."""
        public = {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "training"}
        return ", ".join(f"{key}={value!r}" for key, value in public.items())

    def check_net(self, net: BoundedNet) -> None:
        """InputError or ModelError where this loss cannot train ``net``; called before it does."""

    def check_batch_size(self, size: int) -> None:
        """InputError where this loss cannot use batches of ``size``; called before it has to."""

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """The loss at a positive ε."""
        raise NotImplementedError


def with_range(attack: Attack, clip: Range | None) -> Attack:
    """A PGD gets the loss's valid range; any other attack stays as it is."""
    if not callable(attack):
        raise InputError(f"the attack is {shown(attack)}; expected PGD() or another function")
    return replace(attack, clip=clip) if isinstance(attack, PGD) else attack


def check_method(method: str) -> None:
    """Refuse bounds that are unknown or cannot be trained on."""
    check_name(method, "method", TRAINABLE)


def check_share(value: float, name: str, meaning: str) -> None:
    """Refuse a value outside (0, 1]."""
    if not (is_number(value) and 0 < value <= 1):
        raise InputError(f"{name} is {shown(value)}; expected a number in (0, 1]: {meaning}")


def check_batch(net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar, clip: Range | None) -> Scalar:
    """ε; refuses what a training loss cannot use, each by one line that names the value."""
    eps = check_radius(eps, "ε")
    check_labelled(net, x, y, finite=clip is None)
    check_fits(eps, x, "ε")
    if clip is None:
        return eps
    check_fits(clip, x, "clip")
    lower, upper = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in clip)
    tolerance = 1e-5
    if not bool(((x >= lower - tolerance) & (x <= upper + tolerance)).all()):
        raise InputError(
            f"images range from {float(x.detach().min()):.4g} to "
            f"{float(x.detach().max()):.4g}, outside the valid range "
            f"{shown(clip[0])} to {shown(clip[1])}; pass pixels in [0, 1], or clip=(lowest, "
            "highest) of your normalised data"
        )
    return eps


def natural(net: BoundedNet, x: Tensor, y: Tensor, clip: Range | None) -> LossTerms:
    """Plain cross-entropy, the loss until the ε ramp begins."""
    logits = net(x)
    return LossTerms(F.cross_entropy(logits, y), logits, Box.around(x, POINT_RADIUS, clip))


def is_zero(eps: Scalar) -> bool:
    return not bool(torch.as_tensor(eps).any())
