"""Certified average UAP accuracy of groups of inputs that share one perturbation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import distributed
from ..attacks import PGD, GroupAttack
from ..bounds.box import Ball
from ..bounds.checks import Range, Scalar, check_count, check_name
from ..bounds.inputs import outside_inference, taking_data
from ..bounds.net import BoundedNet, as_bounded_net
from ..errors import InputError, ModelError, shown
from ..imports import to_frame
from .certificates import Certificates, check_soundness
from .crown.proofs import Proofs
from .damage import Damage, Groups
from .engines import find_engine
from .group_search import GroupSearch
from .milp import check_solver
from .relational import GROUP_STAGES, RELATIONAL, check_group_arithmetic, group_stage_of
from .single import certify, check_attack, check_certifiable, check_computed, working
from .unfinished import GroupState, Unfinished

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class UapBounds:
    """How many inputs of each of G groups survive the worst shared perturbation ‖u‖ <= ε.

    Args:
        lower: (G,) how many are proved to survive.
        upper: (G,) how many survive the attack, with lower <= truth <= upper.
        size: (G,) inputs of each group; the last may be smaller.
        u: (G, ...) the perturbation found for each group.
        broken: (N,) inputs that the perturbation of their group misclassifies, those wrong
            without it included.
        stage: For each group, what raised its lower bound last.
        took: (G,) its share of the time of attack and group stage, in seconds.
        seconds: Of the attack and of the group stage.
    """

    lower: Tensor
    upper: Tensor
    size: Tensor
    u: Tensor
    broken: Tensor
    stage: tuple[str, ...]
    took: Tensor
    seconds: dict[str, float]

    @property
    def certified_accuracy(self) -> float:
        """Certified average UAP accuracy (UCert): proved share of all inputs."""
        return int(self.lower.sum()) / int(self.size.sum())

    @property
    def attacked_accuracy(self) -> float:
        """Share of all inputs that survive the attack: no proof can exceed it."""
        return int(self.upper.sum()) / int(self.size.sum())

    def __repr__(self) -> str:
        return (
            f"UapBounds({len(self.size)} groups, {int(self.size.sum())} inputs: UCert "
            f"{100 * self.certified_accuracy:.2f} %, under attack "
            f"{100 * self.attacked_accuracy:.2f} %)"
        )

    def to_frame(self) -> DataFrame:
        """Return a pandas frame with a row for each group.

        Columns: size, safe_at_least (proved), safe_at_most (attacked), stage, seconds.

        Raises:
            DependencyError: pandas is not installed.
        """
        return to_frame(
            {
                "size": self.size,
                "safe_at_least": self.lower,
                "safe_at_most": self.upper,
                "stage": self.stage,
                "seconds": self.took,
            }
        )

    @staticmethod
    def cat(parts: Sequence[UapBounds]) -> UapBounds:
        """Return the bounds of consecutive groups as one value."""
        names = ("lower", "upper", "size", "u", "broken", "took")
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        stage = tuple(stage for part in parts for stage in part.stage)
        seconds = {k: sum(part.seconds[k] for part in parts) for k in parts[0].seconds}
        return UapBounds(stage=stage, seconds=seconds, **tensors)


@outside_inference
@taking_data
def certify_uap(
    net: object,
    x: Tensor,
    y: Tensor,
    eps: Scalar,
    *,
    group_size: int = 5,
    certificates: Certificates | None = None,
    relational: str | None = None,
    time_limit: float = 10.0,
    solver: str = "highs",
    attack: GroupAttack | None = None,
    clip: Range | None = None,
    batch_size: int = 256,
    progress: bool | None = None,
    unfinished: Unfinished | None = None,
    proofs: Proofs | None = None,
    norm: float = math.inf,
    arithmetic: str = "real",
) -> UapBounds:
    """Bound the UAP accuracy over consecutive groups of ``group_size`` inputs.

    The inputs certified alone are safe in their groups (Xu & Singh, Appendix B). Of the others,
    the group stage proves which cannot be broken by the *same* perturbation: ``io`` on fixed
    linear bounds (Zeng et al. 2023), ``cross`` also by bounds optimised for tuples of inputs
    together (RACoon), with branch and bound (RABBit) where the ``certificates`` went that far;
    groups with many open inputs go to a mixed-integer program. ``zeng``, ``raven``, ``racoon``
    and ``rabbit`` do what the paper of that name does, whatever the ``certificates``: CROWN's
    lines; these and bounds of differences; bounds of tuples without splits; and with them. The
    upper bound is a joint attack on each group.

    Args:
        net: A BoundedNet, or an auto_LiRPA BoundedModule.
        x: (N, ...) inputs.
        y: (N,) labels.
        eps: Radius of the perturbations in pixels, a number or a tensor that broadcasts to one
            input.
        group_size: Consecutive inputs that share a perturbation; the last group may be smaller.
        certificates: Of these inputs, with this ε and ``clip``; by the default of
            :func:`certify` if None.
        relational: The group stage, one of ``RELATIONAL``; None for ``cross`` where the
            certificates went as far as branch and bound, and ``io`` elsewhere.
        time_limit: Seconds of attack and group stage for each group that is not settled. What
            is open by then counts as broken in the lower bound, as safe in the upper one. The
            attack gets a quarter of it, and half a second at least for all groups.
        solver: Of mixed-integer programs: highs, or gurobi where it is installed.
        attack: The joint attack, GroupAttack's default if None.
        clip: Range that perturbed inputs are cut to.
        batch_size: Inputs that are worked on together.
        progress: Whether a bar shows how many groups are attacked, and the limit of each; None for
            yes in terminals and notebooks.
        unfinished: What an earlier call has left that was stopped, of these very inputs and
            certificates; what is found is put there as it is found.
        proofs: Receives what the dual engine proves, beside that of ``certify``.
        norm: That perturbations are measured in, as of :func:`certify`.
        arithmetic: What is proved of, as of :func:`certify`; float32 is not for ``raven``.

    Raises:
        InputError: A value cannot be used, or the certificates are of other boxes, inputs or
            weights.
        SoundnessError: An attack breaks what was certified.
    """
    net = as_bounded_net(net)
    ball = check_certifiable(net, x, y, eps, clip, time_limit, norm, proofs)
    check_computed(arithmetic, x)
    check_group_arithmetic(arithmetic, relational)
    _check_options(len(x), group_size, relational, solver, batch_size)
    joint = attack is None or (callable(attack) and not isinstance(attack, PGD))
    check_attack(attack, ball, joint, "GroupAttack() or None")
    if certificates is None:
        more: dict[str, Any] = {"clip": clip, "norm": norm, "arithmetic": arithmetic}
        more |= {"batch_size": batch_size, "proofs": proofs, "progress": progress}
        certificates = certify(net, x, y, eps, **more)
    else:
        _check_certificates(certificates, net, x, y, ball, arithmetic)
    stage = GROUP_STAGES[relational or group_stage_of(certificates.methods)]
    groups, at_once = Groups(len(x), group_size, x.device), max(1, batch_size // group_size)
    attack, unfinished = attack or GroupAttack(clip=clip, norm=norm), unfinished or Unfinished()
    unfinished.keep_to(ball, arithmetic)
    state = unfinished.groups = unfinished.groups or _begin(x, groups, certificates)
    hidden, what = not distributed.draws_bar(progress), f"groups, at most {time_limit:g} s each"
    with working(net, x.device, desc=what, unit="group", disable=hidden) as bar:
        damage = Damage(net, ball, x, y, groups, certificates, state)
        search = GroupSearch(damage, stage, time_limit, solver)
        _work(search, attack, proofs, at_once, bar)
    check_soundness(certificates, state.broken)
    return _found(groups, certificates, state)


def _work(
    search: GroupSearch, attack: GroupAttack, proofs: Proofs | None, at_once: int, bar: tqdm
) -> None:
    """Attack all groups, and run the group stage where the network has a dual engine."""
    search.attack(attack, at_once, bar)
    if search.stage.steps:
        try:
            net, ball = search.damage.net, search.damage.ball
            engine = find_engine(net, ball, proofs, search.damage.certificates.arithmetic).as_dual()
        except ModelError:  # the network has no dual engine
            return
        if search.stage.optimises:
            search.attack_further(attack, at_once, bar)
        search.run(engine, at_once, bar)


def _found(groups: Groups, certificates: Certificates, state: GroupState) -> UapBounds:
    """Return what is known of groups at the end."""
    lower, upper = groups.count(certificates.correct) - state.most, groups.count(~state.broken)
    seconds = {part: state.seconds.get(part, 0.0) for part in ("group attack", "group stage")}
    return UapBounds(
        *(lower, upper, groups.real.sum(dim=1), state.u, state.broken),
        *(tuple(state.proved_by), state.took, seconds),
    )


def _check_options(
    count: int, group_size: int, relational: str | None, solver: str, batch_size: int
) -> None:
    """Refuse groups, a group stage, a solver or batches that cannot be."""
    check_count(batch_size, "batch size")
    check_count(count, "number of inputs", 2)
    check_count(group_size, f"group size of {count} inputs", 2, count)
    if relational is not None:
        check_name(relational, "relational stage", RELATIONAL)
    check_solver(solver)


def _begin(x: Tensor, groups: Groups, certificates: Certificates) -> GroupState:
    """Return what certificates alone tell of groups."""
    most = groups.count(certificates.open)
    return GroupState(
        u=torch.zeros((len(most), *x.shape[1:]), dtype=x.dtype, device=x.device),
        broken=~certificates.correct,
        attacked=torch.zeros_like(most, dtype=torch.bool),
        most=most,
        proved_by=["single"] * len(most),
        blocked=[[] for _ in most],
        took=torch.zeros(len(most), dtype=torch.float64, device=x.device),
    )


def _check_certificates(
    certificates: Certificates,
    net: BoundedNet,
    x: Tensor,
    y: Tensor,
    ball: Ball,
    arithmetic: str,
) -> None:
    if not isinstance(certificates, Certificates):
        raise InputError(f"certificates are {shown(certificates)}; expected those of certify()")
    if not len(x) == len(y) == len(certificates.correct):
        raise InputError(
            f"{len(x)} inputs, {len(y)} labels and certificates of {len(certificates.correct)}; "
            "expected as many of each"
        )
    certificates.check_box(ball, arithmetic)
    certificates.check_subjects(net.module, x, y)
