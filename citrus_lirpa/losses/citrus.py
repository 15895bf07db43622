"""CITRUS: certified training on boxes around the perturbations of other inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import distributed
from ..attacks import PGD, GroupAttack
from ..bounds.box import PIXELS
from ..bounds.checks import Range, Scalar, check_count, check_name, is_count, is_number
from ..bounds.margins import logit_margins, robust_cross_entropy
from ..bounds.net import BoundedNet
from ..errors import expect, require
from .base import Attack, Loss, LossTerms, Stage, perturb, repeated
from .checks import check_method, check_share
from .cross_input import Groups, Pairing, Shifts, cross_input_boxes, joint_sets_of, partners_of
from .universal import Universal

REDUCTIONS = {
    "sum": lambda losses: losses.sum(dim=1),
    "mean": lambda losses: losses.mean(dim=1),
    "max": lambda losses: losses.max(dim=1).values,
}
#: Step of the universal perturbations, as a share of their radius.
_UNIVERSAL_STEP = 0.25


class Citrus(Loss):
    """The CITRUS loss, a sum over all partners j of every input i.

    1/B Σ_i Σ_j robust_CE(net on the box of radius τ around x_i + v_j), where τ = tau_ratio·ε,
    ``attack`` finds v_j on x_j in B(0, ε - τ), and ``pairing`` gives the partners j:
    ``Groups(5)`` is Algorithm 1, ``Shifts(4)`` is the same loss per input for any batch.

    Source: Xu & Singh 2024, Cross-Input Certified Training for Universal Perturbations,
    Definition 4. The paper has no ``k``, ``worst``, ``universal``, ``alpha`` and ``sign_steps``.

    Args:
        tau_ratio: τ/ε, in (0, 1].
        attack: (net, x, y, eps) -> v; PGD() by default. A PGD gets the range ``clip``.
        pairing: The partners of each input; Shifts(4) by default.
        k: The boxes are drawn around perturbations that break k - 1 partners together: 2 is
            CITRUS, with one for each partner; 3 takes all pairs of partners, 4 all triples
            (docs/maths.md). Each such set is attacked as a group with the steps of ``attack``,
            which must be a PGD then. 0 begins with 2, and :meth:`end_epoch` then chooses the k
            of the next epoch by the κ that it measures.
        method: Bounds on the boxes: ``ibp``, ``crown-ibp`` or ``crown``.
        reduction: Over j: ``sum`` (the paper's), ``mean`` or ``max``.
        worst: Number of boxes of each input to train on: those with the highest loss, chosen
            without gradient; 0 for all.
        universal: Number of further partners. They are perturbations common to all inputs, which
            are kept from batch to batch and ascend the loss that the weights descend
            (:class:`Universal`).
        alpha: Weight α in α·L_CITRUS + (1 - α)·L_adv, as in MTL-IBP. L_adv is the same sum of
            the cross-entropy at the centres of the boxes.
        sign_steps: Share of the training, from its beginning, in which one full sign step
            (``PGD.sign_step``) replaces ``attack``; :meth:`begin_step` is told how far it is.
        clip: Valid range of the inputs; None for no limits.
        norm: inf, or 2 for ℓ2 balls B(x_i + v_j, τ), which ``ibp`` bounds; without ``universal``.
    """

    def __init__(
        self,
        tau_ratio: float = 0.5,
        *,
        attack: Attack | None = None,
        pairing: Pairing | None = None,
        k: int = 2,
        method: str = "ibp",
        reduction: str = "sum",
        worst: int = 0,
        universal: int = 0,
        alpha: float = 1.0,
        sign_steps: float = 0.0,
        clip: Range | None = PIXELS,
        norm: float = math.inf,
    ):
        super().__init__(clip, norm)
        check_method(method, norm)
        require(norm != 2 or not universal, "universal partners are for norm inf; set universal=0")
        check_share(tau_ratio, "tau_ratio", "the box radius τ cannot exceed ε")
        check_share(alpha, "alpha", "the weight of the bounds")
        check_name(reduction, "reduction", REDUCTIONS)
        usable = pairing is None or callable(pairing)
        expect(usable, "pairing", pairing, "Shifts(m), Groups(k) or None")
        shares = is_number(sign_steps) and 0 <= sign_steps <= 1
        expect(shares, "sign_steps", sign_steps, "a share of the training, from 0 to 1")
        expect(is_count(k, 0) and k != 1, "k", k, "at least 2, a whole number, or 0: measured")
        check_count(worst, "worst", 0)
        check_count(universal, "universal", 0)
        self.tau_ratio, self.method, self.reduction = tau_ratio, method, reduction
        self.worst, self.alpha, self.universal_count = worst, alpha, universal
        self.attack, self.sign_steps, self.k = self.choose_attack(attack), sign_steps, k
        joint = k == 2 or isinstance(self.attack, PGD)
        expect(joint, f"k is {k}, and the attack", attack, "PGD(): its steps find them together")
        self._measured: Tensor | None
        self.register_buffer("_measured", None if k else torch.tensor(2))
        self._early = sign_steps > 0
        self.pairing = Shifts() if pairing is None else pairing
        self.universal = Universal(_UNIVERSAL_STEP) if universal else None

    def check_batch_size(self, size: int) -> None:
        """Raise InputError if ``size`` inputs cannot be paired, or have too few partners."""
        partners, k = self.pairing(size).shape[1], self.current_k()
        require(
            k <= partners + 1,
            f"k is {k}, but an input has {partners} partners; expected k to be at most "
            f"{partners + 1}: lower k, or raise partners in batches that have them",
        )
        boxes = math.comb(partners, k - 1) + self.universal_count
        fits = self.worst <= boxes or k > 2 and not self.k  # a measured k takes all of them
        require(fits, f"worst is {self.worst}, but each input has {boxes} boxes")

    def current_k(self) -> int:
        """Return k, of this epoch where it is measured."""
        return self.k if self._measured is None else int(self._measured)

    def end_epoch(self, broken: Tensor) -> None:
        """Choose the k of the next epoch where it is measured.

        It is the largest k for which one of the perturbations breaks k inputs in at least half
        of the sets of an input and its partners, and at least 2 (docs/maths.md).

        Args:
            broken: Which of the perturbations tried on a batch breaks which input, (P, B).
        """
        if self._measured is None:
            return
        partners = partners_of(self.pairing, broken.shape[1], broken.device)
        sets = torch.eye(broken.shape[1], device=broken.device).scatter_(1, partners, 1.0)
        kappas = (broken.float() @ sets.T).amax(dim=0)
        median = kappas.sort().values[len(kappas) // 2]
        (k,) = distributed.highest(max(2, int(median)))
        self._measured.fill_(int(k))

    def begin_step(self, net: BoundedNet, done: float, eps: float) -> Stage:
        """Choose the attack of this point of the training."""
        self._early = done < self.sign_steps
        if not isinstance(self.pairing, (Groups, Shifts)):
            return Stage()  # pairs may be others in each step
        return repeated(self, self._early, self.current_k())

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of the cross-input boxes."""
        self.check_batch_size(len(x))
        tau = self.tau_ratio * eps
        v, partners = self._attack(net, x, y, eps - tau)
        logits = net(x)
        if self.universal is not None:
            u = self.universal(self.universal_count, x, eps - tau)
            shared = torch.arange(len(v), len(v) + len(u), device=partners.device)
            shared = shared.expand(len(x), -1)
            v, partners = torch.cat([v, u]), torch.cat([partners, shared], dim=1)
        labels = y.unsqueeze(1)
        if self.worst:
            partners = self._worst(net, x, labels, v, tau, partners)
        box = cross_input_boxes(x, v, tau, partners, self.clip, self.norm)
        labels = labels.expand(partners.shape).flatten()
        bounds = net.bound_unchecked(box, labels, self.method)
        losses = robust_cross_entropy(bounds.margins)
        if self.alpha < 1:
            attacked = logit_margins(net.logits(box.middle), labels)
            losses = self.alpha * losses + (1 - self.alpha) * robust_cross_entropy(attacked)
        total = REDUCTIONS[self.reduction](losses.view_as(partners)).mean()
        return LossTerms(total, logits, box, bounds.margins, v.detach(), bounds)

    def _attack(
        self, net: BoundedNet, x: Tensor, y: Tensor, radius: Scalar
    ) -> tuple[Tensor, Tensor]:
        """Find the perturbations (P, ...), and choose the rows of them that each input sees."""
        attack = PGD.sign_step(self.clip, self.norm) if self._early else self.attack
        k = self.current_k()
        if k == 2 or not isinstance(attack, PGD):
            partners = partners_of(self.pairing, len(x), x.device)
            return perturb(attack, net, x, y, radius), partners
        sets, rows = joint_sets_of(self.pairing, len(x), k - 1, x.device)
        return GroupAttack.like(attack).perturb(net, x[sets], y[sets], radius), rows

    @torch.no_grad()
    def _worst(
        self, net: BoundedNet, x: Tensor, labels: Tensor, v: Tensor, tau: Scalar, partners: Tensor
    ) -> Tensor:
        """Select from the partners (B, m) those with the highest loss, (B, worst)."""
        box = cross_input_boxes(x, v, tau, partners, self.clip, self.norm)
        bounds = net.bound_unchecked(box, labels.expand(partners.shape).flatten(), self.method)
        losses = robust_cross_entropy(bounds.margins).view_as(partners)
        worst = losses.topk(min(self.worst, partners.shape[1]), dim=1).indices
        return partners.gather(1, worst.to(partners.device))
