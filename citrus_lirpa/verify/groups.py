"""Certified average UAP accuracy of groups of inputs that share one perturbation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..attacks import PGD, GroupAttack, GroupAttackResult
from ..bounds.box import Ball
from ..bounds.checks import Range, check_count, check_name, is_count, shown
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.precision import full_precision
from ..errors import InputError, ModelError
from ..optional import to_frame
from .budget import Budget
from .certificates import Certificates, check_soundness
from .crown.engine import ALPHA_STEPS, DualEngine, Images
from .engines import find_engine
from .memory import allocations_fail_cleanly, in_batches, in_less_memory
from .milp import SOLVERS
from .relational import GROUP_STAGES, RELATIONAL, GroupStage, Search, relate
from .single import certify, check_certifiable

if TYPE_CHECKING:
    from pandas import DataFrame

#: Of the time for the group stage, what may go into further attacks on unsettled groups, and
#: into bounds of ReLU inputs.
_ATTACKING_SHARE, _PREPARING_SHARE = 0.05, 0.5


@dataclass(frozen=True)
class UapBounds:
    """How many inputs of each of G groups survive the worst shared perturbation |u| <= ε.

    Args:
        lower: (G,) how many are proved to survive.
        upper: (G,) how many survive the attack, with lower <= truth <= upper.
        size: (G,) inputs of each group; the last may be smaller.
        u: (G, ...) the perturbation found for each group.
        broken: (N,) inputs that the perturbation of their group misclassifies, those wrong
            without it included.
        stage: For each group, what raised its lower bound last.
        took: (G,) its share of the time of the group stage, in seconds.
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


def certify_uap(
    net: object,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    group_size: int = 5,
    certificates: Certificates | None = None,
    relational: str = "cross",
    time_limit: float = 10.0,
    solver: str = "highs",
    attack: GroupAttack | None = None,
    clip: Range | None = None,
    batch_size: int = 256,
    progress: bool = False,
) -> UapBounds:
    """Bound the UAP accuracy over consecutive groups of ``group_size`` inputs.

    The inputs certified alone are safe in their groups (Xu & Singh, Appendix B). Of the others,
    the group stage proves which cannot be broken by the *same* perturbation: ``io`` on fixed
    linear bounds (Zeng et al. 2023), ``cross`` also by bounds optimised for tuples of inputs
    together (RACoon), with branch and bound (RABBit) where the ``certificates`` went that far;
    groups with many open inputs go to a mixed-integer program. The upper bound is a joint
    attack on each group.

    Args:
        net: A BoundedNet, or an auto_LiRPA BoundedModule.
        x: (N, ...) inputs.
        y: (N,) labels.
        eps: Radius of the perturbations, in pixels.
        group_size: Consecutive inputs that share a perturbation; the last group may be smaller.
        certificates: Of these inputs, with this ε and ``clip``; by the default of
            :func:`certify` if None.
        relational: The group stage, one of ``RELATIONAL``.
        time_limit: Seconds of the group stage for each group that is not settled.
        solver: Of mixed-integer programs: highs, or gurobi where it is installed.
        attack: The joint attack, GroupAttack's default if None.
        clip: Range that perturbed inputs are cut to.
        batch_size: Inputs that are worked on together.
        progress: Whether a bar shows how many groups are attacked.

    Raises:
        InputError: A value cannot be used, or the certificates are of other boxes.
        SoundnessError: An attack breaks what was certified.
    """
    net = as_bounded_net(net)
    ball = check_certifiable(net, x, y, eps, clip, time_limit)
    check_count(batch_size, "batch size")
    if not is_count(group_size, 2, len(x)):
        raise InputError(
            f"group size is {shown(group_size)}; expected 2 to {len(x)}, the number of inputs"
        )
    check_name(relational, "relational stage", RELATIONAL)
    check_name(solver, "solver", SOLVERS)
    if not (attack is None or callable(attack)) or isinstance(attack, PGD):
        raise InputError(f"the attack is {shown(attack)}; expected GroupAttack() or None")
    if certificates is None:
        certificates = certify(net, x, y, eps, clip=clip, batch_size=batch_size, progress=progress)
    _check_certificates(certificates, x, y, ball)
    groups, at_once = _Groups(len(x), group_size, x.device), max(1, batch_size // group_size)
    attack = GroupAttack(clip=clip) if attack is None else attack
    begin = time.perf_counter()
    with (
        tqdm(desc="group attack", unit="group", disable=not progress) as bar,
        net.evaluating(),
        full_precision(x.device),
        allocations_fail_cleanly(x.device),
    ):
        damage = _Damage(net, ball, x, y, groups, certificates)
        proofs = _Proofs(damage, GROUP_STAGES[relational], time_limit, solver)
        damage.attack(attack, groups.count(certificates.open).nonzero().squeeze(1), at_once, bar)
        damage.adopt_single_attacks()
        attacked = time.perf_counter()
        engine = _dual_engine(net, ball) if proofs.group_stage.steps else None
        if engine is not None:
            proofs.attack_further(attack, at_once, bar)
            attacked = time.perf_counter()
            bar.set_description("group stage")
            for chunk in torch.arange(len(groups.rows)).split(at_once):
                # groups that do not fit into memory stay as they are
                in_less_memory(engine, partial(proofs.extend, engine, chunk.tolist()))
    check_soundness(certificates, damage.broken)
    seconds = {"group attack": attacked - begin, "group stage": time.perf_counter() - attacked}
    return UapBounds(
        lower=groups.count(certificates.correct) - proofs.most,
        upper=groups.count(~damage.broken),
        size=groups.real.sum(dim=1),
        u=damage.u,
        broken=damage.broken,
        stage=tuple(proofs.stage),
        took=proofs.took,
        seconds=seconds,
    )


def _check_certificates(certificates: Certificates, x: Tensor, y: Tensor, ball: Ball) -> None:
    if not isinstance(certificates, Certificates):
        raise InputError(f"certificates are {shown(certificates)}; expected those of certify()")
    if not len(x) == len(y) == len(certificates.correct):
        raise InputError(
            f"{len(x)} inputs, {len(y)} labels and certificates of {len(certificates.correct)}; "
            "expected as many of each"
        )
    certificates.check_box(float(ball.eps), ball.clip)


def _dual_engine(net: BoundedNet, ball: Ball) -> DualEngine | None:
    """Return the dual engine of the network; None where it has none, and so no group stage."""
    try:
        return find_engine(net, ball).as_dual()
    except ModelError:
        return None


class _Groups:
    """Consecutive groups as rows (G, size); a shorter last one repeats its last input.

    real: (G, size) False where an input stands only to fill up.
    """

    def __init__(self, count: int, size: int, device: torch.device):
        rows = torch.arange(-(-count // size) * size, device=device).view(-1, size)
        self.real = rows < count
        self.rows = rows.clamp(max=count - 1)

    def count(self, mask: Tensor) -> Tensor:
        """Return of how many inputs of each group ``mask`` (N,) holds; (G,)."""
        return (mask[self.rows] & self.real).sum(dim=1)

    def members(self, group: int) -> Tensor:
        """Return the numbers of a group's inputs."""
        return self.rows[group][self.real[group]]


class _Damage:
    """The worst perturbation met of each group, and what it breaks.

    u: (G, ...); broken: (N,) inputs that the perturbation of their group misclassifies.
    """

    def __init__(
        self,
        net: BoundedNet,
        ball: Ball,
        x: Tensor,
        y: Tensor,
        groups: _Groups,
        certificates: Certificates,
    ):
        self.net, self.ball, self.x, self.y = net, ball, x, y
        self.groups, self.certificates = groups, certificates
        self.u = torch.zeros((len(groups.rows), *x.shape[1:]), dtype=x.dtype, device=x.device)
        self.broken = ~certificates.correct

    def attack(self, attack: GroupAttack, which: Tensor, at_once: int, bar: tqdm) -> None:
        """Find one perturbation for each of the groups ``which`` (n,), all with open inputs."""
        groups, open_ = self.groups, self.certificates.open

        def attacked(now: Tensor) -> GroupAttackResult:
            rows = groups.rows[now]
            worth = open_[rows] & groups.real[now]
            return attack(self.net, self.x[rows], self.y[rows], self.ball.eps, worth)

        met = self.broken.clone()  # by any perturbation, also by those that are not adopted
        bar.reset(total=len(which))
        for now, result in in_batches(attacked, which, at_once, bar.update):
            if result is not None:  # a group that does not fit stays unattacked
                for g, u, broken in zip(now.tolist(), result.u[:, 0], result.broken, strict=True):
                    broken = broken[groups.real[g]]
                    met[groups.members(g)] |= broken
                    self._keep(g, u, broken)
        check_soundness(self.certificates, met)

    def adopt_single_attacks(self) -> None:
        """Try on their groups what broke single inputs."""
        size = self.groups.rows.shape[1]
        for i, v in zip(self.certificates.attacked.nonzero(), self.certificates.v, strict=True):
            self.adopt(int(i) // size, v)
        check_soundness(self.certificates, self.broken)

    def adopt(self, group: int, u: Tensor) -> None:
        """Take a perturbation that was met, if it breaks more of the group."""
        rows = self.groups.members(group)
        with torch.no_grad():
            logits = self.net(self.ball.cut(self.x[rows] + u))
        self._keep(group, u, logits.argmax(1) != self.y[rows])

    def _keep(self, group: int, u: Tensor, broken: Tensor) -> None:
        """Take u, which misclassifies ``broken`` of the group's inputs, if those are more."""
        rows = self.groups.members(group)
        broken = broken | ~self.certificates.correct[rows]
        if int(broken.sum()) > int(self.broken[rows].sum()):
            self.u[group], self.broken[rows] = u, broken


class _Proofs:
    """What a group stage proves of each group.

    most: (G,) how many open inputs may break together; stage: what has proved that, for each
    group; took: (G,) seconds.
    """

    def __init__(self, damage: _Damage, group_stage: GroupStage, time_limit: float, solver: str):
        self.damage, self.group_stage = damage, group_stage
        self.time_limit, self.solver = time_limit, solver
        self.groups, self.certificates = damage.groups, damage.certificates
        self.most = self.groups.count(self.certificates.open)
        self.stage = ["single"] * len(self.most)
        self.took = torch.zeros(len(self.most), dtype=torch.float64, device=self.most.device)

    def unsettled(self) -> Tensor:
        """Return the groups of which more inputs are open than known to break together; (n,)."""
        broken = self.groups.count(self.damage.broken & self.certificates.open)
        return (self.most > broken).nonzero().squeeze(1)

    def attack_further(self, attack: GroupAttack, at_once: int, bar: tqdm) -> None:
        """Attack the unsettled groups again and again, from other starts, while there is time."""
        left = self.unsettled()
        budget = Budget.of(_ATTACKING_SHARE * self.time_limit, len(left))
        while len(left) and not budget.over:
            self.damage.attack(attack, left, at_once, bar)
            left = self.unsettled()

    def extend(self, engine: DualEngine, chunk: list[int]) -> None:
        """Run the group stage on the groups of ``chunk`` that are not settled."""
        open_ = self.certificates.open
        split = "bab" in self.certificates.methods
        unsettled = [g for g in self.unsettled().tolist() if g in chunk]
        if split:  # of a single open input, branch and bound has tried all that this stage could
            count = self.groups.count(open_)
            unsettled = [g for g in unsettled if int(count[g]) > 1]
        begin, budget = time.perf_counter(), Budget.of(self.time_limit, len(unsettled))
        ready, parts = self._prepare(engine, unsettled, budget.part(_PREPARING_SHARE))
        if not ready:
            return
        members, images, rows = zip(*parts, strict=True)
        number = {int(i): k for k, i in enumerate(torch.cat(members))}
        groups = [
            (
                [number[i] for i in inputs.tolist()],
                {number[i] for i in inputs.tolist() if self.damage.broken[i]},
            )
            for inputs in members
        ]
        search = Search(engine, Images.cat(images), split, budget, self.solver)
        proofs = relate(search, torch.cat(rows), groups, self.group_stage)
        for g, proof in zip(ready, proofs, strict=True):
            if proof.most < self.most[g]:
                self.most[g], self.stage[g] = proof.most, proof.stage
            if proof.u is not None:
                self.damage.adopt(g, proof.u)
        self.took[ready] = (time.perf_counter() - begin) / len(ready)

    def _prepare(
        self, engine: DualEngine, groups: list[int], budget: Budget
    ) -> tuple[list[int], list[tuple[Tensor, Images, Tensor]]]:
        """Bound the open inputs of groups, the most hopeful groups first, while there is time.

        Returns the groups that were reached and whose bounds are not too large to compute with,
        and of each the numbers of its open inputs, the best bounds, and the margins still open.
        """
        ready, parts = [], []
        open_, certificates = self.certificates.open, self.certificates
        members = {g: (rows := self.groups.members(g))[open_[rows]] for g in groups}
        hope = {g: float(certificates.margin[i].mean()) for g, i in members.items()}
        for g in sorted(groups, key=hope.__getitem__, reverse=True):
            now = members[g]
            images, _, proved = engine.ibp(self.damage.x[now], self.damage.y[now])
            if bool(images.usable.all()):
                rows = ~(certificates.rows[now] | proved)
                images = engine.refined(images)
                rows &= ~engine.margins(images, rows, ALPHA_STEPS)[1]
                ready.append(g)
                parts.append((now, images, rows))
            if budget.over:
                break
        return ready, parts
