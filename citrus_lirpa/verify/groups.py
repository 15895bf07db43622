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
from ..bounds.box import clamp
from ..bounds.checks import Range, check_count, check_name, is_count, shown
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.precision import full_precision
from ..errors import InputError
from ..optional import to_frame
from .certificates import Certificates, check_soundness
from .crown.engine import ALPHA_STEPS, Engine, Images
from .memory import allocations_fail_cleanly, in_batches, in_less_memory
from .milp import SOLVERS
from .relational import Relation, relate
from .single import certify, check_certifiable, find_engine

if TYPE_CHECKING:
    from pandas import DataFrame

#: The group stage: none, on fixed linear bounds, and with bounds optimised across inputs.
RELATIONAL = ("none", "io", "cross")
#: Of the time for the group stage, what may go into further attacks on unsettled groups, and
#: into bounds of ReLU inputs.
_ATTACKING_SHARE, _PREPARING_SHARE = 0.05, 0.5


@dataclass(frozen=True)
class UapBounds:
    """How many inputs of each group survive the worst shared perturbation |u| <= ε.

    lower, upper: (G,) proved and attacked numbers of inputs safe in each group, with
    lower <= truth <= upper; size: (G,) inputs per group, the last may be smaller;
    u: (G, ...) the perturbation found for each group; broken: (N,) inputs that the
    perturbation of their group misclassifies, those wrong without it included; stage: per
    group, what raised its lower bound last; took: (G,) its share of the group stage's time, in
    seconds; seconds: of the attack and of the group stage.
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
        """A pandas frame with a row for each group: size, safe_at_least (proved),
        safe_at_most (attacked), stage, seconds. Raises DependencyError without pandas."""
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
        """Those of consecutive groups, as one."""
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
    """Bounds on the UAP accuracy over consecutive groups of ``group_size`` inputs.

    x: (N, ...); y: (N,). The inputs certified alone are safe in their groups (Xu & Singh,
    Appendix B). Of the others, the group stage proves which cannot be broken by the *same*
    perturbation: ``io`` on fixed linear bounds (Zeng et al. 2023), ``cross`` also by bounds
    optimised for tuples of inputs together (RACoon), with branch and bound (RABBit) where
    the ``certificates`` went that far; groups with many open inputs go to a mixed-integer
    program, by ``solver`` (highs, or gurobi where it is installed). It takes at most
    ``time_limit`` seconds per group that is not settled. The upper bound is a joint attack
    on each group.

    ``certificates`` of these inputs are computed if not given, by the default of
    :func:`certify`; others are refused if their ε or clip differ. Raises SoundnessError if an
    attack breaks what was certified.
    """
    net = as_bounded_net(net)
    eps = check_certifiable(net, x, y, eps, clip, time_limit)
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
    if not isinstance(certificates, Certificates):
        raise InputError(f"certificates are {shown(certificates)}; expected those of certify()")
    if not len(x) == len(y) == len(certificates.correct):
        raise InputError(
            f"{len(x)} inputs, {len(y)} labels and certificates of {len(certificates.correct)}; "
            "expected as many of each"
        )
    certificates.check_box(eps, clip)
    attack = GroupAttack(clip=clip) if attack is None else attack
    state = _State(net, x, y, eps, clip, _Groups(len(x), group_size, x.device), certificates)
    at_once = max(1, batch_size // group_size)
    begin = time.perf_counter()
    with (
        tqdm(desc="group attack", unit="group", disable=not progress) as bar,
        net.evaluating(),
        full_precision(x.device),
        allocations_fail_cleanly(x.device),
    ):
        state.attack(attack, at_once, bar, state.groups.count(certificates.open).nonzero())
        state.adopt_single_attacks()
        attacked = time.perf_counter()
        engine = find_engine(net, eps, clip)
        if relational != "none" and isinstance(engine, Engine):
            state.attack_further(attack, at_once, bar, _ATTACKING_SHARE * time_limit)
            attacked = time.perf_counter()
            bar.set_description("group stage")
            for chunk in torch.arange(len(state.most)).split(at_once):
                now = partial(state.relate, engine, relational, solver, time_limit, chunk.tolist())
                in_less_memory(engine, now)  # groups that do not fit stay as they are
    check_soundness(certificates, state.broken)
    seconds = {"group attack": attacked - begin, "group stage": time.perf_counter() - attacked}
    return state.result(seconds)


class _Groups:
    """Consecutive groups as rows (G, size); a shorter last one repeats its last input.

    real: (G, size) False where an input stands only to fill up.
    """

    def __init__(self, count: int, size: int, device: torch.device):
        rows = torch.arange(-(-count // size) * size, device=device).view(-1, size)
        self.real = rows < count
        self.rows = rows.clamp(max=count - 1)

    def count(self, mask: Tensor) -> Tensor:
        """(G,): how many of each group's inputs ``mask`` (N,) holds for."""
        return (mask[self.rows] & self.real).sum(dim=1)

    def members(self, group: int, mask: Tensor) -> Tensor:
        """The numbers of one group's inputs that ``mask`` (N,) holds for."""
        rows = self.rows[group][self.real[group]]
        return rows[mask[rows]]


class _State:
    """The groups of an evaluation, and what is known of each so far."""

    def __init__(
        self,
        net: BoundedNet,
        x: Tensor,
        y: Tensor,
        eps: float,
        clip: Range | None,
        groups: _Groups,
        certificates: Certificates,
    ):
        self.net, self.x, self.y, self.eps, self.clip = net, x, y, eps, clip
        self.groups, self.certificates = groups, certificates
        count = len(groups.rows)
        self.u = torch.zeros((count, *x.shape[1:]), dtype=x.dtype, device=x.device)
        self.broken = ~certificates.correct
        self.most = groups.count(certificates.open)
        self.stage = ["single"] * count
        self.took = torch.zeros(count, dtype=torch.float64, device=x.device)

    def attack(self, attack: GroupAttack, at_once: int, bar: tqdm, which: Tensor) -> None:
        """One perturbation for each of the groups ``which`` (n, 1), all with open inputs."""
        if len(which) == 0:
            return
        open_, groups = self.certificates.open, self.groups

        def attacked(now: Tensor) -> GroupAttackResult:
            rows = groups.rows[now]
            worth = open_[rows] & groups.real[now]
            return attack(self.net, self.x[rows], self.y[rows], self.eps, worth)

        met = self.broken.clone()
        bar.reset(total=len(which))
        for now, result in in_batches(attacked, which.squeeze(1), at_once, bar.update):
            if result is not None:  # a group that does not fit stays unattacked
                for g, u, broken in zip(now.tolist(), result.u[:, 0], result.broken, strict=True):
                    broken = broken[groups.real[g]]
                    met[groups.rows[g][groups.real[g]]] |= broken
                    self._keep(g, u, broken)
        check_soundness(self.certificates, met)

    def adopt_single_attacks(self) -> None:
        """What broke single inputs, tried on their groups."""
        size = self.groups.rows.shape[1]
        for i, v in zip(self.certificates.attacked.nonzero(), self.certificates.v, strict=True):
            self._adopt(int(i) // size, v)
        check_soundness(self.certificates, self.broken)

    def attack_further(self, attack: GroupAttack, at_once: int, bar: tqdm, seconds: float) -> None:
        """The attack again, from other starts, on the groups that stay unsettled: about
        ``seconds`` for each."""
        begin, left = time.perf_counter(), self.unsettled()
        until = begin + seconds * len(left)
        while left and time.perf_counter() < until:
            self.attack(attack, at_once, bar, torch.tensor(left, device=self.x.device)[:, None])
            left = self.unsettled()

    def unsettled(self) -> list[int]:
        """The groups of which more inputs are open than known to break together."""
        broken = self.groups.count(self.broken & self.certificates.open)
        return (self.most > broken).nonzero().flatten().tolist()

    def relate(
        self, engine: Engine, mode: str, solver: str, time_limit: float, chunk: list[int]
    ) -> None:
        """The group stage on those of ``chunk`` that certificates and attack leave unsettled."""
        open_ = self.certificates.open
        split = "bab" in self.certificates.methods
        unsettled = [g for g in self.unsettled() if g in chunk]
        if split:  # of a single open input, branch and bound has tried all that this stage could
            open_inputs = self.groups.count(open_)
            unsettled = [g for g in unsettled if int(open_inputs[g]) > 1]
        if not unsettled:
            return
        begin = time.perf_counter()
        total = time_limit * len(unsettled)
        ready, used, parts = self._prepare(engine, unsettled, begin + total * _PREPARING_SHARE)
        if not ready:
            return
        number = {int(i): k for k, i in enumerate(torch.cat(used))}
        relations = []
        for g in ready:
            members = self.groups.members(g, open_).tolist()
            broken = {number[i] for i in members if self.broken[i]}
            relations.append(Relation([number[i] for i in members], broken))
        images, rows = zip(*parts, strict=True)
        relate(
            engine,
            Images.cat(images),
            torch.cat(rows),
            relations,
            mode=mode,
            split=split,
            deadline=begin + total,
            limit=time_limit,
            solver=solver,
        )
        for g, relation in zip(ready, relations, strict=True):
            if relation.most < self.most[g]:
                self.most[g], self.stage[g] = relation.most, relation.stage
            if relation.u is not None:
                self._adopt(g, relation.u)
        self.took[ready] = (time.perf_counter() - begin) / len(ready)

    def _prepare(
        self, engine: Engine, groups: list[int], until: float
    ) -> tuple[list[int], list[Tensor], list[tuple[Images, Tensor]]]:
        """Groups with the numbers of their open inputs, and of these the best bounds and the
        margins that stay open: the most hopeful groups first, as many as there is time for,
        without those whose bounds are too large to compute with."""
        ready, used, parts = [], [], []
        members = {g: self.groups.members(g, self.certificates.open) for g in groups}
        hope = {g: float(self.certificates.margin[i].mean()) for g, i in members.items()}
        for g in sorted(groups, key=lambda g: hope[g], reverse=True):
            now = members[g]
            images, lower = engine.ibp(self.x[now], self.y[now])
            if bool(images.usable.all()):
                rows = ~(self.certificates.rows[now] | engine.surely_positive(lower, images))
                images = engine.refined(images)
                ready.append(g)
                used.append(now)
                parts.append((images, rows & ~engine.margins(images, rows, ALPHA_STEPS)[1]))
            if time.perf_counter() > until:
                break
        return ready, used, parts

    def _adopt(self, group: int, u: Tensor) -> None:
        """Take a perturbation that was met, if it breaks more of the group."""
        rows = self.groups.rows[group][self.groups.real[group]]
        with torch.no_grad():
            logits = self.net(clamp(self.x[rows] + u, self.clip))
        self._keep(group, u, logits.argmax(1) != self.y[rows])

    def _keep(self, group: int, u: Tensor, broken: Tensor) -> None:
        """Take u, which misclassifies ``broken`` of the group's inputs, if those are more."""
        rows = self.groups.rows[group][self.groups.real[group]]
        broken = broken | ~self.certificates.correct[rows]
        if int(broken.sum()) > int(self.broken[rows].sum()):
            self.u[group], self.broken[rows] = u, broken

    def result(self, seconds: dict[str, float]) -> UapBounds:
        groups = self.groups
        return UapBounds(
            groups.count(self.certificates.correct) - self.most,
            groups.count(~self.broken),
            groups.count(torch.ones_like(self.broken)),
            self.u,
            self.broken,
            tuple(self.stage),
            self.took,
            seconds,
        )
