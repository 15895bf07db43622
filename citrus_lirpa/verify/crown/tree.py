"""Branch and bound of one problem, on the reduced networks of its images.

A problem is a tuple of images, and what would break it: one wrong class for each member. It is
proved when the dual bound of every combination of classes is positive, split on unstable ReLUs as
long as it is not (β-CROWN, RABBit). A tuple of one is the robustness of a single image.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from ...bounds.deadline import ending_by, time_is_over, time_left
from .ascent import Ascent, ascend_dual
from .descent import Descent
from .pool import Domains, Pool
from .program import Program
from .reduced_dual import ReducedBound, columns
from .reduced_images import ReducedImages
from .refutation import refuted

#: Steps of ascent on a combination, on a half, and on a domain without neurons left to split.
_FIRST_STEPS, _STEPS, _LAST_STEPS, RATE = 5, 5, 100, 0.1
#: Known logits are multiplied by this before trees begin with them: a weight that is nearly zero
#: would stay so, although its member may be the one that a perturbation does not break.
_FLATTENED = 0.5
#: One round in so many ends with an attack: the first for a single image; for a tuple, whose
#: attacks take longer, the middle one, which easy tuples do not reach.
_ATTACK_EVERY, _ATTACK_TUPLES_EVERY = 4, 8
#: A tree whose members suit programs, with at most so many open combinations, goes to them after
#: so many seconds of work; a search may take this share of the time left, half of it before others.
_MOST_PROGRAMS, _PATIENCE, _PROGRAM_SHARE = 16, 0.1, 0.75

OPEN, PROVED, BROKEN, GIVEN_UP = range(4)


class Tree:
    """The search for a proof, or for a perturbation that breaks all members of one tuple.

    Args:
        images: Where the members come from.
        members: Their numbers.
        rows: (N, s) the open combinations of margins that would break all members.

    Every tree is planted before it runs, on a pool of domains or on the combinations.

    Attributes:
        state: OPEN, PROVED, BROKEN or GIVEN_UP.
        u: What breaks all members (...), if BROKEN.
        claimed: Whether the solver of programs says that nothing does, which proves nothing.
        spent: Seconds of work.
    """

    def __init__(self, images: ReducedImages, members: list[int], rows: Tensor):
        begin = time.perf_counter()
        self.images, self.members = images, torch.tensor(members, device=rows.device)
        self.engine = images.engine
        self.state, self._bounded = OPEN, 0
        self.u: Tensor | None = None
        self.claimed = False
        self._exact, self._network = images.joined(members)
        self._columns = self._network.columns
        self._threshold = float(images.images.threshold[self.members].max())
        self._at_once = max(2, self.engine.rows_at_once // len(members))
        self._descent = Descent(self._network, self.engine.ball, rows)
        self._pool = Pool(self._combinations(rows[:0], images.images.x.new_zeros(0, len(members))))
        self._done, self._leaves = list[Domains](), list[Domains]()
        self._rounds = 0
        self._programs_wait = images.suit_programs(members)
        self.spent = time.perf_counter() - begin

    def plant(self, pool: Pool, leaves: Sequence[Domains]) -> None:
        """Begin with domains on whole networks, and those that are proved already."""
        begin = time.perf_counter()
        self._pool = Pool(self._reduced(pool.take(pool.count)))
        self._done = list(leaves)
        self.spent += time.perf_counter() - begin

    def plant_combinations(self, rows: Tensor, logits: Tensor) -> None:
        """Begin with combinations (N, s), whose bounds have weights with logits (N, s)."""
        begin = time.perf_counter()
        for part in torch.arange(len(rows), device=rows.device).split(self._at_once):
            domains = self._combinations(rows[part], _FLATTENED * logits[part])
            self._bound(domains, _FIRST_STEPS)
        self.state = OPEN if self._pool.count else PROVED
        self.spent += time.perf_counter() - begin

    def _combinations(self, rows: Tensor, logits: Tensor) -> Domains:
        """Return combinations, unsplit, whose choices are yet to come."""
        signs = rows.new_zeros(len(rows), len(self._columns), dtype=torch.int8)
        dual = ReducedBound(self._network, self.engine.ball, rows, signs)
        return Domains(rows, signs, dual.start(), logits, logits[:, 0], rows[:, 0])

    @property
    def numbers(self) -> int:
        """How many α and β are kept."""
        return self._pool.numbers

    @property
    def share(self) -> float:
        """How much of all combinations is open, where each half counts one half."""
        return self._pool.share

    def run(self, seconds: float, left: float) -> int:
        """Work on the problem for some seconds, for one step at least.

        Args:
            seconds: How long.
            left: What it may take altogether; so long may programs take.

        Returns:
            How many domains were bounded.
        """
        begin, before = time.perf_counter(), self._bounded
        while self.state == OPEN:
            self._rounds += 1
            self._split()
            if self.state == OPEN and not self._pool.count:
                self.state = PROVED
            spent = time.perf_counter() - begin
            if self.state == OPEN and self._programs_wait and self.spent + spent > _PATIENCE:
                self._programs_wait = False
                with ending_by(begin + left):
                    self._solve()
            if spent > seconds:
                break
        self.spent += time.perf_counter() - begin
        return self._bounded - before

    def _solve(self) -> None:
        """Break all members by programs of the open combinations, or prove every one of these.

        None is proved before all are searched: where one breaks, the others need no proof.
        """
        rows = self._pool.rows.unique(dim=0)
        if len(rows) > _MOST_PROGRAMS:
            return
        ball, dtype = self.engine.ball, self.images.images.x.dtype
        networks = [self.images.network(number) for number in self.members.tolist()]
        programs, possible = [Program.of(networks, ball, row.tolist()) for row in rows], False
        for number, program in enumerate(programs):
            share = _PROGRAM_SHARE / min(2, len(programs) - number)
            answer = program.search(share * time_left())
            possible |= not answer.impossible
            if answer.u is not None:
                self._try(answer.u.to(self.images.images.x).unsqueeze(0))
            if self.state == BROKEN or time_is_over():
                return
        if possible:
            return
        self.claimed = True
        least, found = self.engine.least * self._threshold, list[Domains]()
        for program, row in zip(programs, rows, strict=True):
            leaves = refuted(program, self._exact, ball, row, least, dtype)
            if leaves is None:
                return
            found.append(leaves)
        self.state = PROVED
        self._done, self._leaves = (_without(some, rows) for some in (self._done, self._leaves))
        self._leaves += found

    def keep_proofs(self) -> None:
        """Hand on the parts, if the whole network's bounds of all of them are positive too."""
        engine, images = self.engine, self.images.images
        if engine.proofs is None:
            return
        leaves = self._whole(Domains.cat(self._leaves))
        for part in torch.arange(leaves.size, device=self.members.device).split(self._at_once):
            some = leaves.at(part)
            members = self.members.expand(some.size, -1)
            shape = members.numel(), images.relaxation.lower.shape[1]
            dual = engine.dual(images, members, some.rows, signs=some.signs.view(shape))
            exact = dual.in_float64(engine.exact_segments)
            weights = some.logits.double().softmax(1)
            value = exact(some.parameter.view(shape).double(), weights).value
            if not bool((value > engine.least * self._threshold).all()):
                return
        keep_leaves(self.images, self.members, [*self._done, leaves])

    def _split(self) -> None:
        """Halve the most promising domains, bound the halves, and attack in some rounds.

        The problem is given up where a domain has no neuron left to split, and neither many
        more steps prove it nor an attack breaks the members.
        """
        now = self._pool.take(self._at_once // 2)
        last = now.choice < 0
        if bool(last.any()) and self._bound(now.at(last), _LAST_STEPS, attack=True):
            self.state = GIVEN_UP if self.state == OPEN else self.state
        if len(self.members) == 1:
            attack = self._rounds % _ATTACK_EVERY == 1
        else:
            attack = self._rounds % _ATTACK_TUPLES_EVERY == _ATTACK_TUPLES_EVERY // 2
        self._bound(now.at(~last).halves(), _STEPS, attack=attack)

    def _bound(self, domains: Domains, steps: int, *, attack: bool = False) -> int:
        """Bound domains, and put those that stay unproved into the pool; return how many."""
        if not domains.size or self.state != OPEN:
            return 0
        dual = ReducedBound(self._network, self.engine.ball, domains.rows, domains.signs)
        start = columns(domains.parameter)
        found = ascend_dual(dual, steps, parameter=start, logits=domains.logits, rate=RATE)
        self._bounded += domains.size
        left = (~self._proved(domains, found)).nonzero().squeeze(1)
        if not len(left):
            return 0
        if attack:
            self._try(self._descent(domains.rows[left], found.point.u[left]))
        score = dual.split_scores(found.point, found.last[1].softmax(1))
        self._pool.add(domains.after(found, score).at(left))
        return len(left)

    def _proved(self, domains: Domains, found: Ascent) -> Tensor:
        """Return which bounds (D,) are positive, beyond rounding, in float64."""
        proved = found.value > -self._threshold
        which = proved.nonzero().squeeze(1)
        if len(which):
            dual = ReducedBound(
                self._exact, self.engine.ball, domains.rows[which], domains.signs[which]
            )
            parameter = columns(found.parameter[which].double())
            value = dual.guaranteed(parameter, found.logits[which].double().softmax(1))
            proved[which] = value > self.engine.least * self._threshold
        if self.engine.proofs is not None and bool(proved.any()):
            self._leaves.append(domains.best(found).at(proved))
        return proved

    def _try(self, u: Tensor) -> None:
        """Note the first of the perturbations (n, ...) that breaks all members."""
        if not len(u):
            return
        members = self.members.expand(len(u), -1)
        broken = self.engine.attack.broken(self.images.images, members, u).all(1).nonzero()
        if len(broken):
            self.state, self.u = BROKEN, u[broken[0, 0]].contiguous()

    def _reduced(self, domains: Domains) -> Domains:
        """Return domains on whole networks as such on the reduced ones."""
        places = domains.choice.new_full((domains.signs.shape[1] + 1,), -1)
        places[self._columns] = torch.arange(len(self._columns), device=places.device)
        return domains._replace(
            signs=domains.signs[:, self._columns],
            parameter=domains.parameter[:, self._columns],
            choice=places[domains.choice],  # the last is that of none
        )

    def _whole(self, domains: Domains) -> Domains:
        """Return domains on the reduced networks as such on the whole ones, without choices."""
        width = len(self.members) * self.images.images.relaxation.lower.shape[1]
        signs, parameter = (
            part.new_zeros(len(part), width).index_copy_(1, self._columns, part)
            for part in (domains.signs, domains.parameter)
        )
        return domains._replace(signs=signs, parameter=parameter)


def _without(leaves: Sequence[Domains], rows: Tensor) -> list[Domains]:
    """Return domains but those of the combinations ``rows`` (n, s)."""
    return [part.at((part.rows.unsqueeze(1) != rows).any(2).all(1)) for part in leaves]


def keep_leaves(images: ReducedImages, members: Tensor, leaves: Sequence[Domains]) -> None:
    """Hand on all domains, on whole networks, whose bounds prove a tuple of images.

    Args:
        images: The images.
        members: (s,) the numbers of the tuple's.
        leaves: The domains, in parts.
    """
    proofs = images.engine.proofs
    if proofs is None or not leaves:
        return
    every = Domains.cat(leaves)
    shape = every.size * len(members), images.images.relaxation.lower.shape[1]
    proofs.add(
        *(images.images, members.expand(every.size, -1), every.rows),
        parameter=every.parameter.view(shape),
        signs=every.signs.view(shape),
        weights=every.logits.double().softmax(1),
    )
