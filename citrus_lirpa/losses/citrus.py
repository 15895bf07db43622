"""CITRUS: certified training on boxes around other inputs' perturbations.

Xu & Singh, "Cross-Input Certified Training for Universal Perturbations".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from ..attacks import PGD
from ..bounds import as_bounded_net
from ..boxes import PIXELS, Pairing, Range, Scalar, Shifts, cross_input_boxes
from ..errors import InputError
from ..margins import robust_cross_entropy
from .base import LossTerms, check_batch, check_method, is_zero, natural

REDUCTIONS = {
    "sum": lambda losses: losses.sum(dim=1),
    "mean": lambda losses: losses.mean(dim=1),
    "max": lambda losses: losses.max(dim=1).values,
}


class Citrus(nn.Module):
    """The CITRUS loss (Definition 4), over all partners j of every input i.

    1/B Σ_i Σ_j robust_CE(net on the box of radius τ around x_i + v_j), where v_j is
    found by ``attack`` on x_j in B(0, ε - τ) and the partners j come from
    ``pairing``: ``Groups(5)`` is Algorithm 1, ``Shifts(4)`` the same loss per input
    on batches of any size. τ = tau_ratio·ε.

    tau_ratio: in (0, 1]; attack: (net, x, y, eps) -> v, whose range, for a PGD, becomes the
    loss's; method: bounds on the boxes (``ibp``, ``crown-ibp``, ``crown``); reduction over
    j: ``sum`` (the paper's), ``mean`` or ``max``; clip: valid range of the inputs, (0, 1)
    for pixels, tensors broadcastable to x for normalised data, None for no limits.
    """

    def __init__(
        self,
        tau_ratio: float = 0.5,
        *,
        attack: Callable[..., Tensor] | None = None,
        pairing: Pairing | None = None,
        method: str = "ibp",
        reduction: str = "sum",
        clip: Range | None = PIXELS,
    ):
        super().__init__()
        check_method(method)
        if not 0 < tau_ratio <= 1:
            raise InputError(
                f"tau_ratio is {tau_ratio}; expected a number in (0, 1]: the box radius τ "
                "cannot exceed ε"
            )
        if reduction not in REDUCTIONS:
            raise InputError(
                f"unknown reduction '{reduction}'; expected one of {', '.join(REDUCTIONS)}"
            )
        self.tau_ratio, self.method, self.reduction, self.clip = tau_ratio, method, reduction, clip
        attack = PGD() if attack is None else attack
        self.attack = replace(attack, clip=clip) if isinstance(attack, PGD) else attack
        self.pairing = Shifts() if pairing is None else pairing

    def check_batch_size(self, size: int) -> None:
        """InputError where batches of ``size`` cannot be paired."""
        self.pairing(size)

    def forward(self, net: object, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """x: (B, ...) inputs; y: (B,) labels; eps: radius ε, a number or per-channel tensor.

        ``net`` is a BoundedNet or the user's own BoundedModule, in train mode. Plain
        cross-entropy while eps is 0. Call ``.backward()`` on the result, once.
        """
        net = as_bounded_net(net)
        check_batch(net, x, y, eps, self.clip)
        if is_zero(eps):
            return natural(net, x, y, self.clip)
        tau = self.tau_ratio * eps
        partners = self.pairing(len(x))
        v = self.attack(net, x, y, eps - tau)
        logits = net(x)
        box = cross_input_boxes(x, v, tau, partners, self.clip)
        margins = net.margins(box, y.repeat_interleave(partners.shape[1]), self.method)
        losses = robust_cross_entropy(margins).view_as(partners)
        return LossTerms(REDUCTIONS[self.reduction](losses).mean(), logits, box, margins)
