"""Branch and bound on many problems: those that are not easy have a tree of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...bounds.deadline import ending_by
from ...errors import OutOfTime
from ..budget import Budget
from .forest import Forest
from .reduced_images import ReducedImages
from .tree import GIVEN_UP, OPEN, PROVED, Tree

#: Seconds of work on a problem before the next one has its turn; twice as much in each round.
_FIRST_TURN = 0.1
#: A tuple that has had this share of its limit is given up where, at its pace, what is open would
#: take so many times what is left of it.
_TRIED, _TOO_LONG = 0.25, 2.0
#: Numbers kept for open domains, of all problems; beyond it, the largest problem is given up.
_POOL_LIMIT = 1 << 28


@dataclass(frozen=True)
class Problems:
    """T tuples of s images each, and the combinations of rows that would break them.

    Args:
        members: (T, s) image numbers.
        problem: (D,) the tuple that each combination belongs to.
        rows: (D, s) a margin (wrong class, in margin order) for each member.
    """

    members: Tensor
    problem: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Outcome:
    """What branch and bound has found of T problems.

    Args:
        state: (T,) OPEN, PROVED, BROKEN or GIVEN_UP.
        u: By problem, a perturbation (...) that breaks all its members.
        bounded: (T,) how many domains were bounded.
        claimed: (T,) which problems nothing breaks by the word of a solver, which proves nothing.
        exhausted: (T,) which problems are undecided after all that there is to do. Others that are
            undecided were left at a limit of time, or of the domains that are kept.
    """

    state: Tensor
    u: dict[int, Tensor]
    bounded: Tensor
    claimed: Tensor
    exhausted: Tensor


@torch.no_grad()
def branch_and_bound(
    images: ReducedImages,
    problems: Problems,
    budget: Budget,
    *,
    split: bool = True,
    series: Tensor | None = None,
    logits: Tensor | None = None,
    progress: Callable[[Outcome], object] = lambda found: None,
) -> Outcome:
    """Prove or break as many problems as possible.

    Unless ``logits`` are given, all roots are bounded first, on whole networks, and split as long
    as folding networks would cost more, many problems together. Then problems have turns on
    reduced networks, each round's twice as long as those of the round before, so that easy ones
    are decided first.

    Args:
        images: The images that the problems are about.
        problems: What to prove.
        budget: Its limit holds for each problem, which is given up beyond it.
        split: Whether domains are split, or the roots bounded alone, as those of networks with
            curves are in any case.
        series: (T,) that each problem is of, -1 for none. Those of a series come one after the
            other, the least bound of a root first; it ends where one is broken or given up.
        logits: (D, s) logits of the members' weights in bounds of the combinations; trees begin
            with them, on reduced networks. None to bound roots first.
        progress: Receives what is found so far, after every turn.
    """
    search = _Search(images, problems, series, logits, progress)
    if not len(problems.rows):  # nothing could break them
        search.state.fill_(PROVED)
        return search.outcome
    if logits is None:
        search.bound_roots(budget)
    if split and images.engine.splits:
        if logits is None:
            search.split_together(budget)
        parts = _fitting(images, problems.members)
        for number, part in enumerate(parts):
            its = budget.part(len(part) / sum(map(len, parts[number:])))
            with ending_by(its.deadline), contextlib.suppress(OutOfTime):
                search.take_turns(part, its)
    else:
        search.exhausted = (search.state == OPEN) & (not budget.over)
    return search.outcome


def _fitting(images: ReducedImages, members: Tensor) -> list[list[int]]:
    """Return the problems with ``members`` (T, s) in parts whose networks fit into memory."""
    parts: list[list[int]] = [[]]
    size = 0
    for problem, which in enumerate(members.tolist()):
        more = sum(images.size(number) for number in which)
        if parts[-1] and size + more > images.limit:
            parts.append([])
            size = 0
        parts[-1].append(problem)
        size += more
    return parts


class _Search:
    """The states of the problems, and what changes them; arguments as above."""

    def __init__(
        self,
        images: ReducedImages,
        problems: Problems,
        series: Tensor | None,
        logits: Tensor | None,
        progress: Callable[[Outcome], object],
    ):
        self.images, self.problems, self._logits = images, problems, logits
        self.progress = progress
        every = torch.zeros_like(problems.members[:, 0])
        self.forest = Forest(images, problems.members, every - 1 if series is None else series)
        self._least = torch.full(every.shape, torch.inf, device=every.device)
        self.state, self.bounded, self.u = self.forest.state, self.forest.bounded, self.forest.u
        self.claimed = torch.zeros_like(self.state, dtype=torch.bool)
        self.exhausted = torch.zeros_like(self.claimed)

    @property
    def outcome(self) -> Outcome:
        """What is found so far."""
        return Outcome(self.state, self.u, self.bounded, self.claimed, self.exhausted)

    def bound_roots(self, budget: Budget) -> None:
        """Bound all combinations, those of many problems together, and attack from there."""
        self.forest.plant(self.problems.problem, self.problems.rows, budget)
        for problem, pool in self.forest.pools.items():
            self._least[problem] = pool.least
        self.progress(self.outcome)

    def split_together(self, budget: Budget) -> None:
        """Split what need not be folded for it, many problems together."""
        self.forest.grow(lambda: self._waiting(self.forest.pools), budget, _POOL_LIMIT)
        self.progress(self.outcome)

    def take_turns(self, part: list[int], budget: Budget) -> None:
        """Work on some problems, until they are decided or the time is over."""
        trees: dict[int, Tree] = {}
        turn = _FIRST_TURN
        while waiting := self._waiting(part):
            for problem in waiting:
                if budget.over:
                    return
                if self._waiting([problem]):
                    self._run(problem, trees, min(turn, budget.left), budget.limit)
            turn *= 2

    def _waiting(self, problems: Iterable[int]) -> list[int]:
        """Return which of some problems are open, and next in their series."""
        waiting = (self.state == OPEN) & self.forest.reached & ~self.forest.ended
        least, series = torch.where(waiting, self._least, torch.inf), self.forest.series
        first = least.new_full((int(series.max()) + 2,), torch.inf)
        first = first.scatter_reduce(0, series + 1, least, "amin")
        waiting &= (series < 0) | (least == first[series + 1])
        return [problem for problem in problems if waiting[problem]]

    def _planted(self, problem: int) -> Tree:
        """Return the tree of a problem at its beginning."""
        members = self.problems.members[problem].tolist()
        if self._logits is None:
            pool = self.forest.pools.pop(problem)
            tree = Tree(self.images, members, pool.rows.unique(dim=0))
            tree.plant(pool, self.forest.leaves.pop(problem, []))
        else:
            mine = self.problems.problem == problem
            rows = self.problems.rows[mine]
            tree = Tree(self.images, members, rows)
            self.bounded[problem] += len(rows)
            tree.plant_combinations(rows, self._logits[mine])
        return tree

    def _run(self, problem: int, trees: dict[int, Tree], seconds: float, limit: float) -> None:
        """Work on a problem, note what is found, and keep the tree where it may go on."""
        if problem not in trees:
            trees[problem] = self._planted(problem)
        tree = trees[problem]
        limit -= float(self.forest.spent[problem])  # before it had a tree
        before, share, left = tree.spent, tree.share, limit - tree.spent
        self.bounded[problem] += tree.run(min(seconds, left), left)
        self.state[problem], self.claimed[problem] = tree.state, tree.claimed
        self.exhausted[problem] = tree.state == GIVEN_UP  # no neuron is left to split
        if tree.u is not None:
            self.u[problem] = tree.u
        worked, gained, left = tree.spent - before, share - tree.share, limit - tree.spent
        tried = len(tree.members) > 1 and tree.spent > _TRIED * limit
        slow = tried and tree.share * worked > _TOO_LONG * gained * left
        if tree.state == OPEN and (slow or left < 0):
            self.state[problem] = GIVEN_UP
        if tree.state == PROVED:
            tree.keep_proofs()
        if self.state[problem] != OPEN:
            del trees[problem]
        elif sum(each.numbers for each in trees.values()) > _POOL_LIMIT:
            largest = max(trees, key=lambda each: trees[each].numbers)
            self.state[largest] = GIVEN_UP
            del trees[largest]
        self.progress(self.outcome)
