"""Branch and bound on tuples of inputs that share one perturbation (β-CROWN, RABBit).

A problem is a tuple of images and what would break it: one wrong class for each member. It is
proved when the dual bound of every combination of classes, split on unstable ReLUs as long as
it is not positive, is positive. A tuple of one is the robustness of a single image.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..budget import Budget
from .ascent import Ascent, ascend_dual
from .dual import DualBound
from .engine import ALPHA_RATE, ALPHA_STEPS, DualEngine
from .relaxation import Images

_STEPS, _RATE = 3, 0.1
#: Steps on a domain without neurons left to split, and of an attack from a bound's minimiser.
_LAST_STEPS, _ATTACK_STEPS = 100, 20
#: Numbers kept for open domains, of all problems; beyond it, the largest problem is given up.
_POOL_LIMIT = 1 << 28

OPEN, PROVED, BROKEN, GIVEN_UP = range(4)


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
    """

    state: Tensor
    u: dict[int, Tensor]
    bounded: Tensor


@dataclass(frozen=True)
class _Domains:
    """D parts of problems: a combination of rows, restricted by the signs of split neurons.

    problem: (D,); rows: (D, s); signs, parameter: (D, s, M); logits: (D, s); choice: (D,) the
    flat number in (s, M) of the neuron to split next, -1 where none is left; value: (D,).
    """

    problem: Tensor
    rows: Tensor
    signs: Tensor
    parameter: Tensor
    logits: Tensor
    choice: Tensor
    value: Tensor

    def __len__(self) -> int:
        return len(self.problem)

    def __getitem__(self, which: Tensor) -> _Domains:
        return _Domains(*(getattr(self, f.name)[which] for f in fields(self)))

    @staticmethod
    def cat(parts: list[_Domains]) -> _Domains:
        return _Domains(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(_Domains)))


class _Search:
    """The states of the problems, and what changes them."""

    def __init__(self, engine: DualEngine, images: Images, problems: Problems):
        self.engine, self.images, self.problems = engine, images, problems
        count = len(problems.members)
        device = images.x.device
        self.state = torch.full((count,), OPEN, device=device)
        self.bounded = torch.zeros(count, dtype=torch.long, device=device)
        self.spent = torch.zeros(count, dtype=torch.float64, device=device)
        self.u: dict[int, Tensor] = {}
        self.leaves: list[_Domains] = []

    def bound(
        self, domains: _Domains, steps: int, rate: float, *, root: bool, push: bool = False
    ) -> _Domains:
        """Return the domains that stay unproved, with their bounds and next splits.

        A domain hands on the last parameters of its ascent, not the best ones met: its halves
        start from there, and take several times fewer domains to prove.
        """
        if not len(domains):
            return domains
        members = self.problems.members[domains.problem]
        dual = self.engine.dual(
            self.images, members, domains.rows, signs=domains.signs.flatten(0, 1)
        )
        found = ascend_dual(
            dual,
            steps,
            parameter=None if root else domains.parameter.flatten(0, 1),
            logits=domains.logits,
            rate=rate,
        )
        self.bounded += torch.bincount(domains.problem, minlength=len(self.state))
        left = ~self.engine.proved(dual, found, self.images, members)
        if self.engine.proofs is not None:
            best = found.parameter.view(domains.signs.shape)
            self.leaves.append(replace(domains, parameter=best, logits=found.logits)[~left])
        self._note_broken(
            domains.problem[left], members[left], found.point.u[left], push=root or push
        )
        score = _split_scores(dual, found).view(len(domains), -1)
        best, choice = score.max(1) if score.shape[1] else (score.sum(1) - 1, score.sum(1).long())
        choice = torch.where(best >= 0, choice, -1)
        p, logits = found.last
        p = p.view(domains.signs.shape)
        return replace(domains, parameter=p, logits=logits, choice=choice, value=found.value)[left]

    def _note_broken(
        self, problem: Tensor, members: Tensor, u: Tensor, *, push: bool = False
    ) -> None:
        """Note the problems whose every member a minimising perturbation breaks.

        ``push`` lets an attack start from the minimiser.
        """
        if not len(problem):
            return
        if push:
            u = self.engine.attacked(self.images, members, u, _ATTACK_STEPS)
        broken = self.engine.broken(self.images, members, u).all(1)
        for d in broken.nonzero().flatten().tolist():
            if self.state[problem[d]] == OPEN:
                self.u[int(problem[d])] = u[d]
                self.state[problem[d]] = BROKEN

    def roots(self, at_once: int, budget: Budget) -> _Domains:
        """Return every combination, unsplit; problems not reached in time are given up."""
        p, like = self.problems, self.images.x
        shape = (*p.rows.shape, self.images.relaxation.lower.shape[1])
        parts: list[_Domains] = []
        for part in torch.arange(len(p.problem), device=like.device).split(at_once):
            if parts and budget.over:
                late = p.problem[part]
                self.state[late[self.state[late] == OPEN]] = GIVEN_UP
                continue
            empty = torch.zeros(len(part), *shape[1:], dtype=torch.int8, device=like.device)
            start = _Domains(
                p.problem[part],
                p.rows[part],
                empty,
                empty.to(like.dtype),
                like.new_zeros(len(part), shape[1]),
                torch.zeros_like(part),
                like.new_zeros(len(part)),
            )
            parts.append(self.bound(start, ALPHA_STEPS, ALPHA_RATE, root=True))
        return _Domains.cat(parts)

    def harder(self, domains: _Domains) -> _Domains:
        """Return what stays unproved of both halves of every domain.

        A problem is given up where a domain has no neuron left to split, and neither many
        more steps prove it nor an attack from its minimiser breaks the members.
        """
        last = domains.choice < 0
        if bool(last.any()):
            stuck = self.bound(domains[last], _LAST_STEPS, _RATE, root=False, push=True)
            undecided = stuck.problem[self.state[stuck.problem] == OPEN]
            self.state[undecided] = GIVEN_UP
        return self.bound(self._halves(domains[~last]), _STEPS, _RATE, root=False)

    def _halves(self, domains: _Domains) -> _Domains:
        """Return every domain twice: its chosen neuron on, and off."""
        parts = []
        at, shape = torch.arange(len(domains), device=domains.choice.device), domains.signs.shape
        for sign in (1, -1):
            signs = domains.signs.flatten(1).clone()
            parameter = domains.parameter.flatten(1).clone()
            signs[at, domains.choice] = sign
            parameter[at, domains.choice] = 0  # it was an α, and is a β from now on
            parts.append(replace(domains, signs=signs.view(shape), parameter=parameter.view(shape)))
        return _Domains.cat(parts)

    def keep_proofs(self) -> None:
        """Hand on the leaves of the problems that are proved."""
        if self.engine.proofs is None or not self.leaves:
            return
        leaves = _Domains.cat(self.leaves)
        leaves = leaves[self.state[leaves.problem] == PROVED]
        self.engine.proofs.add(
            *(self.images, self.problems.members[leaves.problem], leaves.rows),
            parameter=leaves.parameter.flatten(0, 1),
            signs=leaves.signs.flatten(0, 1),
            weights=leaves.logits.double().softmax(1),
        )

    def charge(self, problem: Tensor, seconds: float, limit: float) -> None:
        """Share out the time among the domains' problems, and give up those beyond the limit."""
        counts = torch.bincount(problem, minlength=len(self.state))
        self.spent += counts * (seconds / max(1, len(problem)))
        late = (self.state == OPEN) & (self.spent > limit)
        self.state[late] = GIVEN_UP

    def settle(self, pool: _Domains) -> _Domains:
        """Mark problems without domains as proved, and drop the domains of decided ones."""
        pool = pool[self.state[pool.problem] == OPEN]
        left = torch.bincount(pool.problem, minlength=len(self.state))
        self.state[(self.state == OPEN) & (left == 0)] = PROVED
        if pool.parameter.numel() > _POOL_LIMIT:
            self.state[left.argmax()] = GIVEN_UP
            pool = pool[self.state[pool.problem] == OPEN]
        return pool


def branch_and_bound(
    engine: DualEngine,
    images: Images,
    problems: Problems,
    budget: Budget,
    *,
    split: bool = True,
    wanted: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[Outcome], object] = lambda found: None,
) -> Outcome:
    """Prove or break as many problems as possible.

    All roots are bounded first. Then the domains of the problems that have taken least so far
    are split, so that easy problems are decided first.

    Args:
        engine: Gives the bounds.
        images: The images that the problems are about.
        problems: What to prove.
        budget: Its limit holds for each problem, which is given up beyond it.
        split: Whether domains are split at all.
        wanted: Maps the states (T,) to whether each problem is still worth the time (T,).
        progress: Receives what is found so far, after every step.
    """
    search = _Search(engine, images, problems)
    members = problems.members.shape[1]
    at_once = max(1, engine.rows_at_once // members)
    if not len(problems.problem):
        search.state[:] = PROVED
        return Outcome(search.state, {}, search.bounded)
    pool = search.settle(search.roots(at_once, budget))
    while split and len(pool) and not budget.over:
        # least work first, and of equal work the most promising bound
        effort = search.bounded[pool.problem].double() * 1e6 - pool.value
        if wanted is not None:
            effort[~wanted(search.state)[pool.problem]] = torch.inf
            if bool(effort.isinf().all()):
                break
        pick = effort.topk(min(max(1, at_once // 2), len(pool)), largest=False).indices
        pick = pick[~effort[pick].isinf()]
        rest = torch.ones(len(pool), dtype=torch.bool, device=pick.device)
        rest[pick] = False
        begin, now = time.perf_counter(), pool[pick]
        pool = _Domains.cat([pool[rest], search.harder(now)])
        search.charge(now.problem, time.perf_counter() - begin, budget.limit)
        pool = search.settle(pool)
        progress(Outcome(search.state, search.u, search.bounded))
    search.keep_proofs()
    return Outcome(search.state, search.u, search.bounded)


def _split_scores(dual: DualBound, found: Ascent) -> Tensor:
    """Return what the upper line of each unstable ReLU takes from the bound (BaBSR's term).

    (R, M), -1 for the neurons that are not unstable.
    """
    weight = found.last[1].softmax(1).view(-1, 1)
    cost = found.point.coefficients.clamp(max=0).abs() * torch.cat(dual.offset, 1)
    return torch.where(dual.unstable, weight * cost, -1.0)
