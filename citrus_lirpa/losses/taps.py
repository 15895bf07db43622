"""TAPS and STAPS: IBP through the first part of a network, an attack inside its bounds through
the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import distributed
from ..attacks import ascend
from ..bounds.box import PIXELS, Box, clamp
from ..bounds.checks import Range, Scalar, is_count, is_number, shown
from ..bounds.margins import logit_margins, robust_cross_entropy
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.tail import Tail
from ..errors import InputError
from .base import Attack, Loss, LossTerms, check_share
from .ibp import check_max_eps, largest
from .sabr import SmallBox

#: Reach of a gradient below which both ends of a box are taken to be one.
_TINY = 1e-12
_DECAY = (0.7,)


class Taps(Loss):
    """L_TAPS · L_IBP, with the gradient of L_TAPS scaled (Mao et al. 2023, Connecting
    Certified and Adversarial Training).

    IBP bounds the values z between the two parts. For each wrong class c an attack inside
    these bounds maximises logit_c - logit_y through the second part; L_TAPS is the robust
    cross-entropy of the margins there, and a straight-through gradient links each point
    found to the ends of the bounds (:func:`linked`). IBP alone until ε is max_eps.

    max_eps: the radius that the ramp ends with; split: how many ReLUs stand before the split,
    counted from the end where negative (-1, with one ReLU behind it, is the end of the
    convolutions of cnn7 and convsmall); scale: of the gradient of L_TAPS; steps: of the attack;
    link: the share c of the width that a point's gradient reaches over; tau_ratio: None bounds
    the whole ε-box, a number SABR's box of radius τ (STAPS), found by ``attack``.

    A network without that many ReLUs, or with a connection around the split, raises InputError
    or ModelError at the first call.
    """

    def __init__(
        self,
        max_eps: float,
        *,
        split: int = -1,
        scale: float = 5.0,
        steps: int = 20,
        link: float = 0.5,
        tau_ratio: float | None = None,
        attack: Attack | None = None,
        clip: Range | None = PIXELS,
    ):
        super().__init__(clip)
        check_max_eps(max_eps)
        check_share(link, "link", "the share of the box's width that gradients reach over")
        if not is_count(steps) or not (is_number(scale) and scale > 0):
            raise InputError(
                f"TAPS with {shown(steps)} steps and gradients scaled by {shown(scale)}; expected "
                "both positive, the steps a whole number"
            )
        if not is_count(split, -(2**31)):
            raise InputError(f"split is {shown(split)}; expected a whole number of ReLUs")
        if attack is not None and tau_ratio is None:
            raise InputError("an attack finds SABR's box; give tau_ratio too, its radius over ε")
        self.max_eps, self.split, self.scale = max_eps, split, scale
        self.steps, self.link = steps, link
        self.small_box = None if tau_ratio is None else SmallBox(tau_ratio, attack, clip)

    def check_net(self, net: BoundedNet) -> None:
        """InputError or ModelError where the network has no such split."""
        net.tail(self._cut(net))

    def forward(self, net: object, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        net = as_bounded_net(net)
        self.check_net(net)  # before ε rises
        return super().forward(net, x, y, eps)

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        box, v = Box.around(x, eps, self.clip), None
        if self.small_box is not None:
            box, v = self.small_box(net, x, y, eps)
        logits = net(x)
        margins = net.margins(box, y, "ibp")
        total = robust_cross_entropy(margins).mean()
        if largest(eps) >= self.max_eps * (1 - 1e-6):
            attacked = self.margins_inside(net, box, y)
            total = total * _scaled(robust_cross_entropy(attacked).mean(), self.scale)
        return LossTerms(total, logits, box, margins, v)

    def margins_inside(self, net: BoundedNet, box: Box, y: Tensor) -> Tensor:
        """(B, K-1) margins at the points found between the parts, with graph; needs ``box``
        to be the one that ``net`` bounded last."""
        cut = self._cut(net)
        before = net.preactivation_bounds(box)[cut]
        z = Box(before.lower.relu().unsqueeze(1), before.upper.relu().unsqueeze(1))
        tail = net.tail(cut)
        inside = Box(*(end.detach().expand(-1, net.classes - 1, *end.shape[2:]) for end in z))
        points = self._attack(tail.frozen(), inside, y)
        return _own_margins(tail, linked(z, points, self.link), y)

    def _attack(self, tail: Tail, inside: Box, y: Tensor) -> Tensor:
        """(B, K-1, ...) for every wrong class a point in its own box, of the same shape."""
        width = inside.upper - inside.lower
        # not rand_like, whose draws depend on how the images are laid out
        share = distributed.draw_rows(
            lambda rows: torch.rand(
                (rows, *width.shape[1:]), dtype=width.dtype, device=width.device
            ),
            len(width),
        )
        return ascend(
            lambda points: -_own_margins(tail, points, y).sum(),
            lambda points: clamp(points, inside),
            inside.lower + share * width,
            max(0.2, 2 / self.steps) * width,
            self.steps,
            decay=_DECAY,
        )

    def _cut(self, net: BoundedNet) -> int:
        """The number of the ReLU that the split is behind."""
        before = self.split if self.split >= 0 else net.relus + self.split
        if not 0 < before < net.relus:
            raise InputError(
                f"split is {self.split}, but the network has {net.relus} ReLUs; expected at least "
                "one of them before the split and one behind it"
            )
        return before - 1


def linked(z: Box, points: Tensor, link: float) -> Tensor:
    """``points`` as they are, with gradients to the ends of the boxes z that they lie in.

    With width w and c = link, ∂point/∂upper = (point - (upper - c·w))/(c·w) within c·w of the
    upper end and 0 elsewhere; likewise for the lower end (TAPS, section 3.3). A point that is
    all of its box follows both ends by half.
    """
    lower, upper = z.lower.detach(), z.upper.detach()
    reach = link * (upper - lower)

    def share(distance: Tensor) -> Tensor:
        inside = (1 - distance / reach.clamp(min=_TINY)).clamp(min=0)
        return torch.where(reach > _TINY, inside, 0.5)

    to_upper, to_lower = share(upper - points), share(points - lower)
    return points + to_upper * (z.upper - upper) + to_lower * (z.lower - lower)


def _own_margins(tail: Tail, points: Tensor, y: Tensor) -> Tensor:
    """(B, K-1): of the point (B, K-1, ...) for each wrong class, the margin over that class."""
    batch, wrong = points.shape[:2]
    margins = logit_margins(tail(points.flatten(0, 1)), y.repeat_interleave(wrong))
    return margins.view(batch, wrong, wrong).diagonal(dim1=1, dim2=2)


def _scaled(value: Tensor, scale: float) -> Tensor:
    """``value``, with its gradient times ``scale``."""
    return value.detach() + scale * (value - value.detach())
