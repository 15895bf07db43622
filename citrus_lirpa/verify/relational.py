"""The group stages: how many inputs of a group one perturbation can break, at most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from ..errors import InputError
from .budget import Budget
from .combinations import has_many, prove_combinations, surviving
from .crown.branch_and_bound import Outcome, Problems, branch_and_bound
from .crown.differences import with_differences
from .crown.linear import Chosen, Group, images_of
from .crown.tree import OPEN
from .group_proof import GroupProof, Search
from .milp import most_broken

#: Sizes of the sets of larger groups that branch and bound tries to prove apart.
_SET_SIZES = (2, 3)
#: Of the time of all groups, what large ones may take for that before their program.
_SETS_SHARE = 0.5
#: Of the limit of a group, what one set of a small group may take before the group has ended,
#: unless it suits programs, which are likely to decide it.
_SET_LIMIT = 0.4
#: So many rows are refuted by lines where tuples can be; more together seldom are.
_MOST_ON_LINES = 3


@dataclass(frozen=True)
class GroupStage:
    """One way to prove groups: steps, each of which lowers ``most`` of some of them.

    Args:
        name: What users choose it by.
        optimises: Whether it optimises bounds across images. If not, it takes bounds as good as
            those that single images got, and costs about as much.
        steps: Functions of a search and the unsettled groups, in order.
        crown: Whether it takes CROWN's bounds of single images, whatever these got.
        differences: Whether bounds of what two images differ by give further lines.
        split: Whether sets of images are split; None for where single images were.
    """

    name: str
    optimises: bool
    steps: tuple[Callable[[Search, Sequence[GroupProof]], None], ...]
    crown: bool = False
    differences: bool = False
    split: bool | None = None


def group_proofs(
    search: Search,
    open_rows: Tensor,
    groups: Sequence[tuple[list[int], set[int]]],
    stage: GroupStage,
) -> list[GroupProof]:
    """Return groups with fixed linear bounds, of which nothing is proved yet.

    Args:
        search: What the stage works with.
        open_rows: (n, K-1) the margins of the images that are not proved.
        groups: Of each the numbers of its open images, and those among them that a known
            perturbation breaks together; it leaves some of them unbroken.
        stage: The group stage.
    """
    mask = torch.zeros_like(open_rows)
    used = sorted({i for members, _ in groups for i in members})
    mask[used] = open_rows[used]
    lines = search.engine.lines(search.images, mask, search.iterations)
    if stage.differences:
        lines = with_differences(
            *(lines, search.engine, search.images, mask),
            *([members for members, _ in groups], search.iterations, search.budget),
        )
    rows = [row.nonzero().flatten().tolist() for row in mask.cpu()]

    def note(numbers: list[int], weights: Tensor) -> None:
        if search.engine.proofs is not None and not lines.slopes[numbers].isnan().any():
            members, chosen = lines.image[numbers], lines.row[numbers]
            search.engine.proofs.add(
                *(search.images, members.unsqueeze(0), chosen.unsqueeze(0)),
                parameter=lines.slopes[numbers],
                weights=weights.unsqueeze(0),
            )

    return [
        GroupProof(Group({i: rows[i] for i in members}, lines, search.budget, note), broken)
        for members, broken in groups
    ]


def relate(search: Search, proofs: Sequence[GroupProof], stage: GroupStage) -> None:
    """Bound how many images of each group one perturbation breaks.

    Args:
        search: What the stage works with.
        proofs: What is known of the groups; the stage adds to them.
        stage: The group stage.

    Raises:
        SoundnessError: What is proved contradicts a known perturbation.
    """
    for step in stage.steps:
        step(search, proofs)
    for proof in proofs:
        proof.check()


def _by_lines(search: Search, proofs: Sequence[GroupProof]) -> None:
    """Enumerate the subsets of small groups (Zeng et al. 2023)."""
    for proof in proofs:
        if proof.small and not proof.hopeless:
            proof.enumerate_sets("io")


def _by_program(search: Search, proofs: Sequence[GroupProof]) -> None:
    """Solve a mixed-integer program for every large group (Zeng et al. 2023)."""
    large = [proof for proof in proofs if not (proof.small or proof.hopeless)]
    for number, proof in enumerate(large):
        if not search.budget.over:
            seconds = min(search.budget.limit, search.budget.left / (len(large) - number))
            most = most_broken(proof.group, time_limit=seconds, solver=search.solver)
            proof.lower(max(proof.least, most), "milp")


def _by_tuples(search: Search, proofs: Sequence[GroupProof]) -> None:
    """Prove that sets of images do not break together, by bounds optimised for each set."""
    small = [proof for proof in proofs if proof.small]
    for proof in small if search.split else ():
        proof.group.most_on_lines = _MOST_ON_LINES
    while _one_round(search, small) and not search.budget.over:
        continue
    budget = search.budget.part(_SETS_SHARE)
    for proof in proofs:
        for size in _SET_SIZES:
            if not proof.small and not budget.over:
                _prove_sets(search, {proof: surviving(search, proof, size)}, budget)


def _one_round(search: Search, proofs: Sequence[GroupProof]) -> bool:
    """Try to refute the largest sets of every unsettled group; return whether anything moved.

    Groups with few combinations go together where their sets are of one size, and all or none of
    them suit programs. They get as much of the time that is left as they are of the groups that are
    left. The other groups follow, one by one.
    """
    moved = False
    left = {proof: surviving(search, proof, proof.most) for proof in proofs if proof.hopeful}
    few = [proof for proof in left if not has_many(search, proof, left[proof])]
    kinds = {p: (p.most, search.reduced.suit_programs([*p.group.rows])) for p in few}
    for kind in sorted(set(kinds.values())):
        now = {proof: left.pop(proof) for proof in few if kinds[proof] == kind}
        if not search.budget.over:
            share = len(now) / (len(now) + len(left))
            moved |= _prove_sets(search, now, search.budget.part(share))
            more = {proof: surviving(search, proof, proof.most) for proof in now if proof.hopeful}
            left |= {proof: some for proof, some in more.items() if has_many(search, proof, some)}
    return prove_combinations(search, left) or moved


def _prove_sets(
    search: Search, left: Mapping[GroupProof, Sequence[Chosen]], budget: Budget
) -> bool:
    """Prove or break sets of one size, with all combinations that are left of each.

    Returns:
        Whether any set was.
    """
    owner: list[int] = []
    sets: list[tuple[int, ...]] = []
    problem, rows = [], []
    proofs = list(left)
    for number, proof in enumerate(proofs):
        for members, combinations in groupby(left[proof], images_of):
            for combination in combinations:
                problem.append(len(sets))
                rows.append([row for _, row in combination])
            owner.append(number)
            sets.append(members)
    if not sets:
        return False
    device = search.images.x.device
    problems = Problems(*(torch.tensor(part, device=device) for part in (sets, problem, rows)))
    news: dict[int, bool] = {}

    def take(found: Outcome) -> None:
        """Take the sets that are decided, so that they are kept where the search is stopped."""
        for number in (found.state != OPEN).nonzero().flatten().tolist():
            if number not in news:
                state, u = int(found.state[number]), found.u.get(number)
                news[number] = proofs[owner[number]].take(sets[number], state, u)

    exact = all(map(search.reduced.suit_programs, sets))
    if not exact and any(proof.small for proof in proofs):
        budget = replace(budget, limit=_SET_LIMIT * budget.limit)
    # a small group needs a proof of all its sets; each set of a large one is worth something
    series = torch.tensor([number if proofs[number].small else -1 for number in owner])
    on, split = search.reduced, search.split
    found = branch_and_bound(
        on, problems, budget, split=split, series=series.to(device), progress=take
    )
    take(found)
    for proof in proofs:
        if proof.small:
            proof.enumerate_sets("tuple bab" if search.split else "cross")
    return any(news.values())


_ON_LINES = (_by_lines, _by_program)
_ON_TUPLES = (_by_lines, _by_tuples, _by_program)
#: The group stages: none, on fixed linear bounds, and with bounds optimised across inputs; then
#: what single papers do. A new stage is one more row.
_GROUP_STAGES = (
    GroupStage("none", False, ()),
    GroupStage("io", False, _ON_LINES),
    GroupStage("cross", True, _ON_TUPLES),
    GroupStage("zeng", False, _ON_LINES, crown=True),
    GroupStage("raven", False, _ON_LINES, crown=True, differences=True),
    GroupStage("racoon", True, _ON_TUPLES, split=False),
    GroupStage("rabbit", True, _ON_TUPLES, split=True),
)
GROUP_STAGES = {stage.name: stage for stage in _GROUP_STAGES}
#: Their names.
RELATIONAL = tuple(GROUP_STAGES)


def check_group_arithmetic(arithmetic: str, relational: str | None) -> None:
    """Raise InputError for a stage whose lines are not charged what a device rounds."""
    if arithmetic != "real" and relational is not None and GROUP_STAGES[relational].differences:
        raise InputError(
            f"relational stage {relational} is not for arithmetic {arithmetic}; use cross or io"
        )


def group_stage_of(methods: Sequence[str]) -> str:
    """Return the group stage that costs about as much as the stages that single images go through.

    Args:
        methods: The names of these stages.
    """
    return "cross" if "bab" in methods else "io"
