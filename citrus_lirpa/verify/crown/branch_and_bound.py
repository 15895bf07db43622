"""Branch and bound on many problems: each has a tree of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...bounds.deadline import ending_by
from ...errors import OutOfTime
from ..budget import Budget
from .ascent import ascend_dual
from .engine import ALPHA_RATE, ALPHA_STEPS
from .reduced_images import ReducedImages
from .tree import BROKEN, GIVEN_UP, OPEN, PROVED, Roots, Tree

#: Seconds of work on a problem before the next one has its turn; twice as much in each round.
_FIRST_TURN = 0.1
#: Steps of an attack from the minimiser of a root's bound.
_ATTACK_STEPS = 20
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
    """

    state: Tensor
    u: dict[int, Tensor]
    bounded: Tensor
    claimed: Tensor


@torch.no_grad()
def branch_and_bound(
    images: ReducedImages,
    problems: Problems,
    budget: Budget,
    *,
    split: bool = True,
    wanted: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[Outcome], object] = lambda found: None,
) -> Outcome:
    """Prove or break as many problems as possible.

    All roots are bounded first, many problems together. Then problems have turns, each round's
    twice as long as those of the round before, so that easy ones are decided first.

    Args:
        images: The images that the problems are about.
        problems: What to prove.
        budget: Its limit holds for each problem, which is given up beyond it.
        split: Whether domains are split, or the roots bounded alone, as those of networks with
            curves are in any case.
        wanted: Maps the states (T,) to whether each problem is still worth the time (T,).
        progress: Receives what is found so far, after every turn.
    """
    search = _Search(images, problems, wanted, progress)
    if not len(problems.rows):  # nothing could break them
        search.state.fill_(PROVED)
        return search.outcome
    search.bound_roots(budget)
    parts = _fitting(images, problems.members)
    for number, part in enumerate(parts if split and images.engine.splits else []):
        its = budget.part(len(part) / sum(map(len, parts[number:])))
        with ending_by(its.deadline), contextlib.suppress(OutOfTime):
            search.take_turns(part, its)
    search.keep_proofs()
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
        wanted: Callable[[Tensor], Tensor] | None,
        progress: Callable[[Outcome], object],
    ):
        self.images, self.problems = images, problems
        self.wanted, self.progress = wanted, progress
        count, device = len(problems.members), problems.members.device
        self.state = torch.full((count,), OPEN, device=device)
        self.bounded = torch.zeros(count, dtype=torch.long, device=device)
        self.claimed = torch.zeros_like(self.state, dtype=torch.bool)
        self.u: dict[int, Tensor] = {}
        self._reached = torch.ones_like(self.state, dtype=torch.bool)
        self._proved_roots: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def outcome(self) -> Outcome:
        """What is found so far."""
        return Outcome(self.state, self.u, self.bounded, self.claimed)

    def bound_roots(self, budget: Budget) -> None:
        """Bound all combinations, those of many problems together, and attack from there."""
        problems, at_once = self.problems, self.images.engine.rows_at_once
        every = torch.arange(len(problems.rows), device=problems.rows.device)
        parts: list[tuple[Tensor, Roots]] = []
        for now in every.split(max(1, at_once // problems.members.shape[1])):
            if parts and budget.over:
                self._reached[problems.problem[now[0] :]] = False
                break
            parts.append(self._bound_some(now))
        owners, roots = zip(*parts, strict=True)
        self._owners = torch.cat(owners)
        self._roots = Roots(*map(torch.cat, zip(*roots, strict=True)))
        proved = (self.state == OPEN) & self._reached
        proved[self._owners] = False
        self.state[proved] = PROVED
        self.progress(self.outcome)

    def _bound_some(self, now: Tensor) -> tuple[Tensor, Roots]:
        """Bound some combinations; return those that stay open, after the problem of each."""
        engine, images, problems = self.images.engine, self.images.images, self.problems
        owners, rows = problems.problem[now], problems.rows[now]
        members = problems.members[owners]
        dual = engine.dual(images, members, rows)
        found = ascend_dual(dual, ALPHA_STEPS, rate=ALPHA_RATE)
        self.bounded += torch.bincount(owners, minlength=len(self.state))
        left = ~engine.proved(dual, found, images, members)
        if engine.proofs is not None:
            self._proved_roots.append((now[~left], *found.best(~left)))
        u = engine.attacked(images, members[left], found.point.u[left], _ATTACK_STEPS)
        owners = owners[left]
        for d in engine.broken(images, members[left], u).all(1).nonzero().flatten().tolist():
            self.state[owners[d]], self.u[int(owners[d])] = BROKEN, u[d]
        parameter, logits = found.last
        return owners, Roots(rows, parameter.unflatten(0, members.shape), logits).at(left)

    def keep_proofs(self) -> None:
        """Hand on the roots of problems that are proved; trees have handed on their parts."""
        problems, proofs = self.problems, self.images.engine.proofs
        if proofs is None:
            return
        for now, parameter, weights in self._proved_roots:
            kept = self.state[problems.problem[now]] == PROVED
            members = problems.members[problems.problem[now[kept]]]
            proofs.add(
                *(self.images.images, members, problems.rows[now[kept]]),
                parameter=parameter[kept.repeat_interleave(members.shape[1])],
                weights=weights[kept],
            )

    def take_turns(self, part: list[int], budget: Budget) -> None:
        """Work on some problems, until they are decided or the time is over."""
        trees: dict[int, Tree] = {}
        turn = _FIRST_TURN
        while waiting := [problem for problem in part if self._is_open(problem)]:
            for problem in waiting:
                if budget.over:
                    return
                if self._is_open(problem):
                    self._run(problem, trees, min(turn, budget.left), budget.limit)
            turn *= 2

    def _is_open(self, problem: int) -> bool:
        wanted = self.wanted is None or bool(self.wanted(self.state)[problem])
        return wanted and int(self.state[problem]) == OPEN and bool(self._reached[problem])

    def _run(self, problem: int, trees: dict[int, Tree], seconds: float, limit: float) -> None:
        """Work on a problem, note what is found, and keep the tree where it may go on."""
        if problem not in trees:
            members = self.problems.members[problem].tolist()
            roots = self._roots.at(self._owners == problem)
            trees[problem] = Tree(self.images, members, roots)
        tree = trees[problem]
        left = limit - tree.spent
        self.bounded[problem] += tree.run(min(seconds, left), left)
        self.state[problem], self.claimed[problem] = tree.state, tree.claimed
        if tree.u is not None:
            self.u[problem] = tree.u
        if tree.state == OPEN and tree.spent > limit:
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
