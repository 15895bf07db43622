"""The group stages: how many inputs of a group one perturbation can break, at most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, islice

import torch
from torch import Tensor

from ..errors import SoundnessError
from .budget import Budget
from .crown.branch_and_bound import Outcome, Problems, branch_and_bound
from .crown.differences import with_differences
from .crown.engine import ALPHA_STEPS, DualEngine
from .crown.linear import Chosen, Group
from .crown.reduced_images import ReducedImages
from .crown.relaxation import Images
from .crown.tree import BROKEN, GIVEN_UP, OPEN, PROVED
from .milp import most_broken

#: Groups with at most this many open images are settled by enumerating their subsets.
ENUMERATED = 8
#: Sizes of the sets of larger groups that branch and bound tries to prove apart.
_SET_SIZES = (2, 3)
#: Of the time of all groups, what large ones may take for that before their program.
_SETS_SHARE = 0.5
#: Of the limit of a group, what one set of a small group may take before the group has ended.
_SET_LIMIT = 0.4
#: Combinations of wrong classes of one group handed to branch and bound at once.
_MOST_COMBINATIONS = 2_000


class GroupProof:
    """What is proved of one group: at most ``most`` of its open images break together.

    Args:
        group: The open images, and which sets of them may still break together.
        broken: Those that a known perturbation breaks together.

    Attributes:
        most: An upper bound on how many break together.
        least: How many are known to.
        stuck: The size of a set that branch and bound has given up; no other one helps then.
        u: A perturbation that breaks ``least`` images, more than ``broken``; None if none was met.
        stage: What lowered ``most`` last.
    """

    def __init__(self, group: Group, broken: set[int]):
        self.group, self.broken = group, broken
        self.most, self.least = len(group.rows), len(broken)
        self.stuck = 0
        self.u: Tensor | None = None
        self.stage = "single"

    @property
    def settled(self) -> bool:
        """Whether ``most`` is reached."""
        return self.most <= self.least

    @property
    def hopeless(self) -> bool:
        """Whether lines cannot lower ``most``: one u breaks all of them, and no set is proved."""
        return not self.group.blocked and self.group.may_all_break

    @property
    def small(self) -> bool:
        """Whether the group's subsets can be enumerated."""
        return len(self.group.rows) <= ENUMERATED

    def lower(self, most: int, stage: str) -> None:
        """Take an upper bound that a stage has proved, if it is a better one."""
        if most < self.most:
            self.most, self.stage = most, stage

    def enumerate_sets(self, stage: str) -> None:
        """Look for the largest set that may still break together, by what a stage has refuted."""
        self.lower(self.group.largest(self.least), stage)

    def take(self, members: tuple[int, ...], state: int, u: Tensor | None) -> bool:
        """Take what branch and bound found of a set; return whether it is new."""
        if state == PROVED:
            self.group.blocked.add(frozenset(members))
            return True
        if state == BROKEN and self.least < len(members):
            self.least, self.u = len(members), u
            return True
        if state == GIVEN_UP:
            self.stuck = len(members)
        return False

    def check(self) -> None:
        """Raise SoundnessError where what is proved contradicts a known perturbation."""
        if not self.group.may_break(self.broken):
            raise SoundnessError(
                f"an attack breaks {len(self.broken)} inputs together that were proved not "
                "to break together; the bounds of this model are not sound: please report it "
                "with the model"
            )


@dataclass(frozen=True)
class Search:
    """What the group stages work with.

    Args:
        engine: Gives the bounds.
        images: The open images of all groups.
        split: Whether sets of images are proved by branch and bound, or by their roots alone.
        budget: For all groups together; its limit holds for each set.
        iterations: Steps of α-CROWN for the fixed linear bounds of margins.
        solver: Of mixed-integer programs, one of ``SOLVERS``.
    """

    engine: DualEngine
    images: Images
    split: bool
    budget: Budget
    iterations: int = ALPHA_STEPS
    solver: str = "highs"

    @cached_property
    def reduced(self) -> ReducedImages:
        """The images, with their reduced networks."""
        return ReducedImages(self.engine, self.images)


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
    while _one_round(search, small) and not search.budget.over:
        continue
    budget = search.budget.part(_SETS_SHARE)
    for proof in proofs:
        for size in _SET_SIZES:
            if not proof.small and not budget.over:
                _prove_sets(search, [proof], size, budget)


def _one_round(search: Search, proofs: Sequence[GroupProof]) -> bool:
    """Try to refute the largest sets of every unsettled group; return whether anything moved.

    Sets of one size go together; each size gets the share of the time left that its groups
    have of the groups still to come.
    """
    moved = False
    for size in range(1, ENUMERATED + 1):
        if search.budget.over:
            break
        hopeful = [proof for proof in proofs if not proof.settled and proof.stuck != proof.most]
        to_come = [proof for proof in hopeful if proof.most >= size]
        now = [proof for proof in to_come if proof.most == size]
        if now:
            moved |= _prove_sets(search, now, size, search.budget.part(len(now) / len(to_come)))
    return moved


def _prove_sets(search: Search, proofs: Sequence[GroupProof], size: int, budget: Budget) -> bool:
    """Prove or break all sets of a size that may break together; return whether any was."""
    owner: list[int] = []
    sets: list[tuple[int, ...]] = []
    problem, rows = [], []
    for number, proof in enumerate(proofs):
        for members, combinations in groupby(_surviving(search, proof, size), _images):
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

    if any(proof.small for proof in proofs):
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


def _surviving(search: Search, proof: GroupProof, size: int) -> list[Chosen]:
    """Return what may break sets of a size; nothing where that is too much to be worth it."""
    if search.budget.over:
        return []
    found = list(islice(proof.group.survivors(size), _MOST_COMBINATIONS + 1))
    return found if len(found) <= _MOST_COMBINATIONS else []


def _images(chosen: Chosen) -> tuple[int, ...]:
    return tuple(image for image, _ in chosen)


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


def group_stage_of(methods: Sequence[str]) -> str:
    """Return the group stage that costs about as much as the stages that single images go through.

    Args:
        methods: The names of these stages.
    """
    return "cross" if "bab" in methods else "io"
