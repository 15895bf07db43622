"""The group stage: how many inputs of a group one perturbation can break, at most."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import SoundnessError
from .crown.branch_and_bound import BROKEN, PROVED, Problems, branch_and_bound
from .crown.engine import Engine, Images
from .crown.linear import Group
from .milp import most_broken

#: Groups with at most this many open images are settled by enumerating their subsets.
ENUMERATED = 8
#: Combinations of wrong classes of one group handed to branch and bound at once.
_MOST_COMBINATIONS = 2_000


@dataclass
class Relation:
    """What is known of one group: of its open ``members``, ``broken`` break together, and no
    more than ``most`` can. ``u`` is a perturbation that breaks more than ``broken`` if not None;
    stage: what lowered ``most`` last."""

    members: list[int]
    broken: set[int]
    most: int = field(init=False)
    least: int = field(init=False)
    u: Tensor | None = None
    stage: str = "single"

    def __post_init__(self) -> None:
        self.most, self.least = len(self.members), len(self.broken)

    @property
    def settled(self) -> bool:
        return self.most <= self.least


def relate(
    engine: Engine,
    images: Images,
    open_rows: Tensor,
    relations: Sequence[Relation],
    *,
    mode: str,
    split: bool,
    deadline: float,
    limit: float = math.inf,
    solver: str = "highs",
) -> None:
    """Lower ``most`` (and where a joint perturbation is met, raise ``least``) in place.

    images: the open ones; open_rows: (n, K-1) margins not proved; mode: ``io`` uses fixed
    linear bounds, ``cross`` also optimises the bounds of tuples together, and with ``split``
    by branch and bound, ``limit`` seconds for each set.
    """
    wanted = [r for r in relations if not r.settled]
    used = sorted({i for r in wanted for i in r.members})
    if not used:
        return
    mask = torch.zeros_like(open_rows)
    mask[used] = open_rows[used]
    lines = engine.lines(images, mask)
    rows = [row.nonzero().flatten().tolist() for row in mask.cpu()]
    groups = [Group({i: rows[i] for i in r.members}, lines, deadline) for r in wanted]
    pairs = list(zip(wanted, groups, strict=True))
    small = [(r, g) for r, g in pairs if len(r.members) <= ENUMERATED]
    large = [(r, g) for r, g in pairs if len(r.members) > ENUMERATED]
    for relation, group in small:
        _lower(relation, group, "io")
    if mode == "cross":
        while _one_round(engine, images, small, split, deadline, limit):
            continue
        for pair in large:
            for size in (2, 3):
                if time.perf_counter() < deadline:
                    _prove_sets(engine, images, [pair], size, split, deadline, limit)
    for relation, group in large:
        left = max(1.0, deadline - time.perf_counter())
        most = max(relation.least, most_broken(group, time_limit=left, solver=solver))
        if most < relation.most:
            relation.most, relation.stage = most, "milp"
    for relation, group in pairs:
        if not group.may_break(relation.broken):
            raise SoundnessError(
                f"an attack breaks {len(relation.broken)} inputs together that were proved not "
                "to break together; the bounds of this model are not sound: please report it "
                "with the model"
            )


def _lower(relation: Relation, group: Group, stage: str) -> None:
    most = group.most(relation.least)
    if most < relation.most:
        relation.most, relation.stage = most, stage


def _one_round(
    engine: Engine,
    images: Images,
    pairs: Sequence[tuple[Relation, Group]],
    split: bool,
    deadline: float,
    limit: float,
) -> bool:
    """Try to refute the largest sets of every unsettled group; whether anything moved.

    Sets of one size go together; each size gets the share of the time left that its groups
    have of the groups still to come.
    """
    moved = False
    for size in range(1, ENUMERATED + 1):
        to_come = [(r, g) for r, g in pairs if not r.settled and r.most >= size]
        now = [(r, g) for r, g in to_come if r.most == size]
        if now:
            begin = time.perf_counter()
            until = begin + max(0.0, deadline - begin) * len(now) / len(to_come)
            moved |= _prove_sets(engine, images, now, size, split, until, limit)
    return moved and time.perf_counter() < deadline


def _prove_sets(
    engine: Engine,
    images: Images,
    pairs: Sequence[tuple[Relation, Group]],
    size: int,
    split: bool,
    deadline: float,
    limit: float,
) -> bool:
    """Branch and bound on all surviving sets of ``size`` of these groups."""
    sets: dict[tuple[int, ...], int] = {}
    owners: list[tuple[Relation, Group]] = []
    problem, rows = [], []
    for relation, group in pairs:
        combinations = []
        for combination in group.survivors(size):
            combinations.append(combination)
            if len(combinations) > _MOST_COMBINATIONS:
                break
        if len(combinations) > _MOST_COMBINATIONS:
            continue  # too many to be worth it: stays as it is
        for combination in combinations:
            members = tuple(i for i, _ in combination)
            if members not in sets:
                sets[members] = len(sets)
                owners.append((relation, group))
            problem.append(sets[members])
            rows.append([row for _, row in combination])
    if not sets:
        return False
    device = images.x.device
    problems = Problems(
        torch.tensor(list(sets), device=device),
        torch.tensor(problem, device=device),
        torch.tensor(rows, device=device),
    )
    numbers: dict[int, list[int]] = {}
    for number, (relation, _) in enumerate(owners):
        numbers.setdefault(id(relation), []).append(number)

    def wanted(state: Tensor) -> Tensor:
        """A group with a broken set of this size is settled: its other sets need no proof."""
        useful = torch.ones_like(state, dtype=torch.bool)
        for mine in numbers.values():
            if bool((state[mine] == BROKEN).any()):
                useful[mine] = False
        return useful

    outcome = branch_and_bound(
        engine, images, problems, deadline=deadline, limit=limit, split=split, wanted=wanted
    )
    moved = False
    for members, number in sets.items():
        relation, group = owners[number]
        if outcome.state[number] == PROVED:
            group.blocked.add(frozenset(members))
            moved = True
        elif outcome.state[number] == BROKEN and relation.least < size:
            relation.least, relation.u = size, outcome.u[number]
            moved = True
    for relation, group in pairs:
        if len(relation.members) <= ENUMERATED:
            _lower(relation, group, "tuple bab" if split else "cross")
    return moved
