"""TAPS and STAPS: IBP through the first part of a network, an attack through the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import distributed
from ..attacks import ascend
from ..bounds.box import PIXELS, Ball, Bounds, Box, clamp
from ..bounds.checks import Range, Scalar, check_count, check_positive, is_count
from ..bounds.frozen import gradient_of
from ..bounds.margins import logit_margins, robust_cross_entropy
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.segments import Segment
from ..errors import expect, require
from .base import Attack, Loss, LossTerms, Stage, perturb, repeated
from .checks import check_max_eps, check_share
from .sabr import Sabr, SmallBox

#: Steps of the attack between the two parts.
LATENT_STEPS = 20
#: Reach of a gradient below which both ends of a box count as one.
_TINY = 1e-12
_DECAY = (0.7,)


class Taps(Loss):
    """L_TAPS · L_IBP, with the gradient of L_TAPS scaled.

    IBP bounds the values z between the two parts of the network. For each wrong class c an
    attack inside these bounds maximises logit_c - logit_y through the second part. L_TAPS is the
    robust cross-entropy of the margins there, and a straight-through gradient links each point
    found to the ends of the bounds (:func:`linked`). The loss is that of IBP until ε is max_eps.

    A network without that many ReLUs, or with a connection around the split, raises InputError
    or ModelError at the first call.

    Source: Mao et al. 2023, Connecting Certified and Adversarial Training, section 3.

    Args:
        max_eps: The radius that the ramp ends with.
        split: ReLUs before the split, counted from the end if negative: -1 leaves one ReLU
            behind the split, the end of the convolutions of cnn7 and convsmall.
        scale: Factor of the gradient of L_TAPS.
        steps: Steps of the attack between the parts.
        link: The share c of the width that the gradient of a point reaches over.
        tau_ratio: None to bound the whole ε-box; τ/ε to bound SABR's box of radius τ (STAPS).
        attack: Finds SABR's box; PGD of 8 steps by default.
        clip: Valid range of the inputs; None for no limits.
    """

    default_attack = Sabr.default_attack

    def __init__(
        self,
        max_eps: float,
        *,
        split: int = -1,
        scale: float = 5.0,
        steps: int = LATENT_STEPS,
        link: float = 0.5,
        tau_ratio: float | None = None,
        attack: Attack | None = None,
        clip: Range | None = PIXELS,
    ):
        super().__init__(clip)
        check_max_eps(max_eps)
        check_share(link, "link", "the share of the box's width that gradients reach over")
        check_count(steps, "Taps.steps")
        check_positive(scale, "scale")
        expect(is_count(split, -(2**31)), "split", split, "a whole number of ReLUs")
        require(
            attack is None or tau_ratio is not None,
            "an attack finds SABR's box; give tau_ratio too, its radius over ε",
        )
        self.max_eps, self.split, self.scale = max_eps, split, scale
        self.steps, self.link = steps, link
        self.attack = self.small_box = None
        if tau_ratio is not None:
            self.attack = self.choose_attack(attack)
            self.small_box = SmallBox(tau_ratio, clip)

    def check_net(self, net: BoundedNet) -> None:
        """Raise InputError or ModelError if the network has no such split."""
        net.tail(self._cut(net))

    def forward(self, net: object, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of a batch as :meth:`Loss.forward`, after a check of the split."""
        net = as_bounded_net(net)
        self.check_net(net)  # at the first call, while ε may still be 0
        return super().forward(net, x, y, eps)

    def begin_step(self, net: BoundedNet, done: float, eps: float) -> Stage:
        """Say whether the points between the parts count."""
        super().begin_step(net, done, eps)
        return repeated(self, self._is_last(eps))

    def _is_last(self, eps: Scalar) -> bool:
        """Return whether an ε is that of the ramp's end."""
        return self.largest_eps(eps) >= self.max_eps * (1 - 1e-6)

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of the boxes and, at full ε, of the points between the parts."""
        box, v = Ball(eps, self.clip).box(x), None
        if self.attack is not None and self.small_box is not None:
            v = perturb(self.attack, net, x, y, eps)
            box = self.small_box(x, v, eps)
        logits = net(x)
        bounds = net.bound_unchecked(box, y)
        total = robust_cross_entropy(bounds.margins).mean()
        if self._is_last(eps):
            attacked = self.margins_inside(net, bounds, y)
            total = total * _scaled(robust_cross_entropy(attacked).mean(), self.scale)
        return LossTerms(total, logits, box, bounds.margins, v, bounds)

    def margins_inside(self, net: BoundedNet, bounds: Bounds, y: Tensor) -> Tensor:
        """Find margins (B, K-1) at points within ``bounds`` between the parts, with graph."""
        cut = self._cut(net)
        before = bounds.preactivation_boxes[cut]
        z = Box(before.lower.relu().unsqueeze(1), before.upper.relu().unsqueeze(1))
        tail = net.tail(cut)
        inside = Box(*(end.detach().expand(-1, net.classes - 1, *end.shape[2:]) for end in z))
        points = self._attack(tail.frozen(), inside, y)
        return _own_margins(tail, linked(z, points, self.link), y)

    def _attack(self, tail: Segment, inside: Box, y: Tensor) -> Tensor:
        """Find a point for every wrong class in its own box, all of them (B, K-1, ...)."""
        width = inside.upper - inside.lower
        # not rand_like, whose draws depend on the memory layout of the images
        share = distributed.draw_rows(
            lambda rows: torch.rand(
                (rows, *width.shape[1:]), dtype=width.dtype, device=width.device
            ),
            len(width),
        )
        return ascend(
            gradient_of(lambda points: -_own_margins(tail, points, y).sum()),
            lambda points: clamp(points, inside),
            inside.lower + share * width,
            max(0.2, 2 / self.steps) * width,
            self.steps,
            decay=_DECAY,
        )

    def _cut(self, net: BoundedNet) -> int:
        """Return the number of the ReLU that the split is behind."""
        return relus_before(self.split, net) - 1


def relus_before(split: int, net: BoundedNet) -> int:
    """Return how many ReLUs of a network are before a split.

    Args:
        split: This number, counted from the end if negative.
        net: The network.

    Raises:
        InputError: No ReLU is before the split, or none behind it.
    """
    before = split if split >= 0 else net.relus + split
    require(
        0 < before < net.relus,
        f"split is {split}, but the network has {net.relus} ReLUs; expected at least one of them "
        "before the split and one behind it",
    )
    return before


def linked(z: Box, points: Tensor, link: float) -> Tensor:
    """Give points the gradients of the rectified linear estimator; their values stay.

    With width w and c = link, ∂point/∂upper = (point - (upper - c·w))/(c·w) within c·w of the
    upper end and 0 elsewhere; likewise for the lower end. A point in a box without width follows
    both ends by half.

    Source: Mao et al. 2023, section 3.3.

    Args:
        z: Boxes with graph.
        points: Points in them, of the same shape.
        link: The share c.
    """
    lower, upper = z.lower.detach(), z.upper.detach()
    reach = link * (upper - lower)

    def share(distance: Tensor) -> Tensor:
        inside = (1 - distance / reach.clamp(min=_TINY)).clamp(min=0)
        return torch.where(reach > _TINY, inside, 0.5)

    to_upper, to_lower = share(upper - points), share(points - lower)
    return points + to_upper * (z.upper - upper) + to_lower * (z.lower - lower)


def _own_margins(tail: Segment, points: Tensor, y: Tensor) -> Tensor:
    """Return the margin of each point (B, K-1, ...) over the wrong class it was found for."""
    batch, wrong = points.shape[:2]
    margins = logit_margins(tail(points.flatten(0, 1)), y.repeat_interleave(wrong))
    return margins.view(batch, wrong, wrong).diagonal(dim1=1, dim2=2)


def _scaled(value: Tensor, scale: float) -> Tensor:
    """Return ``value`` with its gradient multiplied by ``scale``."""
    return value.detach() + scale * (value - value.detach())
