"""The way of attacks and of a group stage through the groups, each within its time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..attacks import GroupAttack
from ..bounds.deadline import ending_by, time_is_over, time_left
from .budget import Budget
from .crown.engine import DualEngine
from .crown.relaxation import Images
from .damage import Damage
from .group_proof import GroupProof, Search
from .memory import GROWTH, in_less_memory
from .relational import GroupStage, group_proofs, relate

#: Of the time of groups, what may go into the attack, into further attacks on unsettled groups,
#: and into bounds of ReLU inputs.
_ATTACK_SHARE, _ATTACKING_SHARE, _PREPARING_SHARE = 0.25, 0.05, 0.5
#: Seconds that the attack gets, however short the limit.
_LEAST_SECONDS = 0.5


class _Bounded(NamedTuple):
    """Groups that were bounded together, without those whose bounds are too large to compute with.

    Attributes:
        groups: Their numbers.
        members: The numbers of each one's open inputs.
        images: The best bounds of all these inputs.
        rows: The margins of these that are still open.
    """

    groups: list[int]
    members: list[Tensor]
    images: Images
    rows: Tensor


class GroupSearch:
    """A group stage on its way through the groups.

    Args:
        damage: What attacks have found of the groups.
        stage: The group stage.
        time_limit: Seconds for each group that is not settled, the attacks included.
        solver: Of mixed-integer programs, one of ``SOLVERS``.
    """

    def __init__(self, damage: Damage, stage: GroupStage, time_limit: float, solver: str):
        self.damage, self.stage, self.state = damage, stage, damage.state
        self.time_limit, self.solver = time_limit, solver
        self.groups, self.certificates = damage.groups, damage.certificates

    def unsettled(self) -> Tensor:
        """Return the groups of which more inputs are open than known to break together; (n,)."""
        broken = self.groups.count(self.damage.broken & self.certificates.open)
        return (self.state.most > broken).nonzero().squeeze(1)

    def attack(self, attack: GroupAttack, at_once: int, bar: tqdm) -> None:
        """Attack every group that has open inputs, first by what broke single inputs."""
        left = self._not_attacked()
        seconds = max(_LEAST_SECONDS, _ATTACK_SHARE * self.time_limit * len(left))
        with self._working("group attack", left), ending_by(time.perf_counter() + seconds):
            self.damage.adopt_single_attacks()
            self.damage.attack(attack, self._not_attacked(), at_once, bar)

    def _not_attacked(self) -> Tensor:
        """Return the unsettled groups that the joint attack has not come to; (n,)."""
        left = self.unsettled()
        return left[~self.state.attacked[left]]

    def attack_further(self, attack: GroupAttack, at_once: int, bar: tqdm) -> None:
        """Attack the unsettled groups again and again, from other starts, while there is time."""
        left = self.unsettled()
        budget = Budget.of(_ATTACKING_SHARE * self.time_limit, len(left))
        with self._working("group attack", left), ending_by(budget.deadline):
            while len(left) and not budget.over:
                self.damage.attack(attack, left, at_once, bar)
                left = self.unsettled()

    @contextlib.contextmanager
    def _working(self, part: str, groups: Tensor | list[int]) -> Iterator[None]:
        """Share out the time of the block among the groups that are worked on, stopped or not."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begin
            self.state.took[groups] += seconds / max(1, len(groups))
            self.state.seconds[part] = self.state.seconds.get(part, 0.0) + seconds

    def run(self, engine: DualEngine, at_once: int, bar: tqdm) -> None:
        """Run the stage on all groups; those that do not fit into memory stay as they are."""
        bar.set_description("group stage")
        for chunk in torch.arange(len(self.state.most)).split(at_once):
            in_less_memory(engine, partial(self._extend, engine, chunk.tolist()))

    def _extend(self, engine: DualEngine, chunk: list[int]) -> None:
        """Run the stage on the groups of ``chunk`` that are not settled."""
        unsettled = [g for g in self.unsettled().tolist() if g in chunk]
        if self._tried:  # branch and bound has tried all that there is for a single open input
            count = self.groups.count(self.certificates.open)
            unsettled = [g for g in unsettled if int(count[g]) > 1]
        left = float((self.time_limit - self.state.took[unsettled]).clamp(min=0).sum())
        budget = replace(Budget.of(left, 1), limit=self.time_limit)
        with self._working("group stage", unsettled), ending_by(budget.deadline):
            with ending_by(budget.part(_PREPARING_SHARE).deadline):
                parts = self._prepare(engine, unsettled)
            if parts:
                self._relate(engine, parts, budget)

    def _relate(
        self,
        engine: DualEngine,
        parts: list[_Bounded],
        budget: Budget,
    ) -> None:
        """Run the stage on groups that are bounded; what it proves is kept where it is stopped."""
        ready = [g for part in parts for g in part.groups]
        members = [inputs for part in parts for inputs in part.members]
        number = {int(i): k for k, i in enumerate(torch.cat(members))}
        groups = [
            (
                [number[i] for i in inputs.tolist()],
                {number[i] for i in inputs.tolist() if self.damage.broken[i]},
            )
            for inputs in members
        ]
        split = self._tried if self.stage.split is None else self.stage.split
        images, rows = Images.cat([p.images for p in parts]), torch.cat([p.rows for p in parts])
        iterations = engine.alpha_steps if self._like("alpha-crown") else 0
        search = Search(engine, images, split, budget, iterations, self.solver)
        proofs = group_proofs(search, rows, groups, self.stage)
        for g, proof in zip(ready, proofs, strict=True):
            proof.lower(int(self.state.most[g]), self.state.proved_by[g])
            proof.group.blocked |= {
                frozenset(number[i] for i in one) for one in self.state.blocked[g]
            }
        try:
            relate(search, proofs, self.stage)
        finally:
            inputs = torch.cat(members).tolist()
            for g, proof in zip(ready, proofs, strict=True):
                self._take(g, proof, inputs)

    def _take(self, group: int, proof: GroupProof, inputs: list[int]) -> None:
        """Take what is proved of a group, whose images are numbers of places in ``inputs``."""
        if proof.most < self.state.most[group]:
            self.state.most[group], self.state.proved_by[group] = proof.most, proof.stage
        if proof.u is not None:
            self.damage.adopt(group, proof.u)
        self.state.blocked[group] = [[inputs[k] for k in one] for one in proof.group.blocked]

    @property
    def _tried(self) -> bool:
        """Whether single images went through branch and bound."""
        return "bab" in self.certificates.methods

    def _like(self, method: str) -> bool:
        """Return whether bounds are to be as good as those of a stage of single images."""
        if self.stage.crown:
            return method == "crown"
        return self.stage.optimises or method in self.certificates.methods

    def _prepare(self, engine: DualEngine, groups: list[int]) -> list[_Bounded]:
        """Bound the open inputs of groups, the most hopeful groups first, while there is time.

        Groups are bounded together: as many as fit into memory, and into the time that is left if
        they are as fast as the earlier ones. The first is alone, which shows how long one takes.
        """
        open_, margin = self.certificates.open, self.certificates.margin
        members = {g: (rows := self.groups.members(g))[open_[rows]] for g in groups}
        hope = {g: float(margin[i].mean()) for g, i in members.items()}
        left = sorted(groups, key=hope.__getitem__, reverse=True)
        most, at_once = max(1, engine.rows_at_once // self.groups.rows.shape[1]), 1
        parts = []
        while left and not time_is_over():
            now, left, begin = left[:at_once], left[at_once:], time.perf_counter()
            parts.append(self._bounded(engine, {g: members[g] for g in now}))
            pace = max(1e-9, time.perf_counter() - begin) / len(now)
            at_once = int(min(most, GROWTH * len(now), max(1, time_left() / pace)))
        return [part for part in parts if part.groups]

    def _bounded(self, engine: DualEngine, members: dict[int, Tensor]) -> _Bounded:
        """Bound the open inputs ``members`` of groups together."""
        now = torch.cat([*members.values()])
        images, _, proved = engine.ibp(self.damage.x[now], self.damage.y[now])
        rows = ~(self.certificates.rows[now] | proved)
        parts = images.usable.split([len(i) for i in members.values()])
        usable = {g: bool(part.all()) for g, part in zip(members, parts, strict=True)}
        if not all(usable.values()):
            which = torch.cat([p & usable[g] for g, p in zip(usable, parts, strict=True)])
            images, rows = images.rows(which), rows[which]
        if len(images) and self._like("bab"):
            images = engine.refined(images)
            rows = rows & ~engine.margins(images, rows, engine.alpha_steps)[1]
        elif len(images) and self.stage.differences:  # which are computed in float64
            images = engine.refined(images)
        elif len(images) and self._like("crown"):
            images = engine.tightened(images)
        ready = [g for g in members if usable[g]]
        return _Bounded(ready, [members[g] for g in ready], images, rows)
