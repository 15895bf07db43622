"""The first domains of many problems, bounded together on whole networks.

Folding the networks of a problem takes as long as bounding a number of domains without them. A
problem that fewer decide needs no reduced networks, nor does one without the time for them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from ..budget import Budget
from .ascent import Ascent, ascend_dual
from .dual import DualBound
from .pool import Domains, Pool
from .reduced_images import ReducedImages
from .tree import BROKEN, GIVEN_UP, OPEN, PROVED, RATE, keep_leaves

#: Steps of ascent on a half, and of an attack from the minimiser of a root's bound.
_STEPS, _ATTACK_STEPS = 3, 20
#: Folding so many unstable ReLUs takes as long as bounding a domain on the whole network.
_FOLDED = 12
#: Reduced networks pay where so many times the work that they cost can be done, or where so many
#: seconds are left for programs.
_WORTH, _FOR_PROGRAMS = 8, 0.3


class Forest:
    """The open domains of T problems, on the columns of the relaxation of all images.

    Args:
        images: The images that the problems are about.
        members: (T, s) the numbers of each problem's.
        series: (T,) that each problem is of, -1 for none. It ends where one of its problems is
            broken or given up: only proofs of all of them are of use.

    Attributes:
        state: (T,) OPEN, PROVED, BROKEN or GIVEN_UP.
        u: By problem, a perturbation (...) that breaks all its members.
        bounded: (T,) how many domains were bounded.
        spent: (T,) seconds of work on their halves.
        reached: (T,) whether all roots were bounded.
        pools: The open domains of each open problem that has any.
        leaves: The proved domains of each open problem, if proofs are kept.
    """

    def __init__(self, images: ReducedImages, members: Tensor, series: Tensor):
        self.images, self.engine, self.members = images, images.engine, members
        self.series = series
        self.state = torch.full((len(members),), OPEN, device=members.device)
        self.u: dict[int, Tensor] = {}
        self.bounded = torch.zeros_like(self.state)
        self.spent = torch.zeros_like(self.state, dtype=torch.float64)
        self.reached = torch.ones_like(self.state, dtype=torch.bool)
        self.pools: dict[int, Pool] = {}
        self.leaves: defaultdict[int, list[Domains]] = defaultdict(list)
        self._at_once = max(2, self.engine.rows_at_once // members.shape[1])

    @property
    def ended(self) -> Tensor:
        """Whether the series of each problem has ended; (T,)."""
        failed = ((self.state == BROKEN) | (self.state == GIVEN_UP)) & (self.series >= 0)
        return torch.isin(self.series, self.series[failed])

    def plant(self, owners: Tensor, rows: Tensor, budget: Budget) -> None:
        """Bound all roots, and attack from there; those that are not reached in time stay open.

        Args:
            owners: (D,) the problem that each combination belongs to, in order.
            rows: (D, s) a margin of each member.
            budget: The time for it.
        """
        for now in torch.arange(len(rows), device=rows.device).split(self._at_once):
            if int(now[0]) and budget.over:
                self.reached[owners[now[0] :]] = False
                break
            ended = self.ended[owners[now]]
            self.reached[owners[now[ended]]] = False
            if len(now := now[~ended]):
                self._bound(owners[now], self._roots(owners[now], rows[now]), root=True)
        self._settle()

    def grow(self, waiting: Callable[[], list[int]], budget: Budget, most: int) -> None:
        """Split domains of all problems, until folding the networks of each of them pays.

        Args:
            waiting: Returns the problems that are worth the time.
            budget: The time for it; problems that take more than its limit are given up.
            most: Numbers that may be kept for domains.
        """
        share = _FOLDED * self.members.shape[1]
        more = [self.images.unfolded(which) // share for which in self.members.tolist()]
        enough = self.bounded + torch.tensor(more, device=self.bounded.device)
        suit = [self.images.suit_programs(which) for which in self.members.tolist()]
        suited = torch.tensor(suit, device=self.bounded.device)
        while not budget.over and sum(pool.numbers for pool in self.pools.values()) < most:
            begin, left = time.perf_counter(), [p for p in waiting() if p in self.pools]
            turn = min(budget.limit, budget.left / max(1, len(left)))
            late = (_WORTH * self.spent > turn) & ~(suited & (turn > _FOR_PROGRAMS))
            staying = (self.bounded < enough) | late
            owners, domains = self._take([p for p in left if staying[p] and self.pools[p].splits])
            if not domains.size:
                break
            self._bound(owners.repeat(2), domains.halves())
            counts = torch.bincount(owners, minlength=len(self.state))
            self.spent += counts * ((time.perf_counter() - begin) / len(owners))
            self.state[(self.state == OPEN) & (self.spent > budget.limit)] = GIVEN_UP
            self._settle()

    def _take(self, problems: list[int]) -> tuple[Tensor, Domains]:
        """Take domains out, of problems with the fewest first, and return them after the owners."""
        owners, parts, room = [], [], max(1, self._at_once // 2)
        for problem in sorted(problems, key=lambda problem: int(self.bounded[problem])):
            parts.append(self.pools[problem].take(room))
            owners += [problem] * parts[-1].size
            room -= parts[-1].size
        owner = torch.tensor(owners, dtype=torch.long, device=self.members.device)
        return owner, Domains.cat([self._roots(owner[:0], self.members[:0]), *parts])

    def _roots(self, owners: Tensor, rows: Tensor) -> Domains:
        """Return combinations, unsplit, whose parameters, values and choices are yet to come."""
        parameter = torch.zeros_like(self.images.images.relaxation.lower[self.members[owners]])
        parameter, logits = parameter.flatten(1), parameter.new_zeros(rows.shape)
        signs = torch.zeros_like(parameter, dtype=torch.int8)
        return Domains(rows, signs, parameter, logits, logits[:, 0], owners)

    def _bound(self, owners: Tensor, domains: Domains, *, root: bool = False) -> None:
        """Bound domains of problems ``owners`` (D,), and note what is found."""
        engine, images, members = self.engine, self.images.images, self.members[owners]
        shape = members.numel(), images.relaxation.lower.shape[1]
        dual = engine.dual(images, members, domains.rows, signs=domains.signs.view(shape))
        found = ascend_dual(
            dual,
            engine.alpha_steps if root else _STEPS,
            parameter=None if root else domains.parameter.view(shape),
            logits=domains.logits,
            rate=engine.alpha_rate if root else RATE,
        )
        self.bounded += torch.bincount(owners, minlength=len(self.state))
        proved = engine.proved(dual, found, images, members)
        self._attack(owners[~proved], found.point.u[~proved], _ATTACK_STEPS if root else 0)
        left = domains.after(found, _split_scores(dual, found))
        for owner in owners.unique().tolist():
            mine = owners == owner
            self.pools.setdefault(owner, Pool(left.at(owners[:0]))).add(left.at(mine & ~proved))
            if engine.proofs is not None:
                self.leaves[owner].append(domains.best(found).at(mine & proved))

    def _attack(self, owners: Tensor, u: Tensor, steps: int) -> None:
        """Note which perturbations (D, ...) break all members, after some steps from there."""
        images, members = self.images.images, self.members[owners]
        u = self.engine.attack(images, members, u, steps) if steps else u
        for d in self.engine.attack.broken(images, members, u).all(1).nonzero().flatten().tolist():
            self.state[owners[d]], self.u[int(owners[d])] = BROKEN, u[d]

    def _settle(self) -> None:
        """Take problems without open domains as proved, and forget what is decided."""
        for problem in ((self.state == OPEN) & self.reached).nonzero().flatten().tolist():
            if problem not in self.pools or not self.pools[problem].count:
                self.state[problem] = PROVED
                keep_leaves(self.images, self.members[problem], self.leaves[problem])
        for problem in [p for p in self.pools if self.state[p] != OPEN]:
            del self.pools[problem]
            self.leaves.pop(problem, None)


def _split_scores(dual: DualBound, found: Ascent) -> Tensor:
    """Return what the upper line of each unstable ReLU takes from a tuple's bound (BaBSR's term).

    (D, s M), -1 for the neurons that are split, or stable.
    """
    cost = found.point.coefficients.clamp(max=0).abs() * torch.cat(dual.offset, 1)
    cost = cost * found.last[1].softmax(1).view(-1, 1)
    return torch.where(dual.unstable, cost, -1.0).view(dual.domains, dual.members * cost.shape[1])
