"""Branch and bound of one problem, on the reduced networks of its images.

A problem is a tuple of images, and what would break it: one wrong class for each member. It is
proved when the dual bound of every combination of classes is positive, split on unstable ReLUs as
long as it is not (β-CROWN, RABBit). A tuple of one is the robustness of a single image.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...bounds.deadline import ending_by, time_left
from .ascent import Ascent, ascend_dual
from .descent import Descent
from .pool import Domains, Pool
from .program import Program
from .reduced_dual import ReducedBound, columns
from .reduced_images import ReducedImages

#: Steps of ascent on a half, and on a domain without neurons left to split.
_STEPS, _LAST_STEPS, _RATE = 5, 100, 0.1
#: Rounds that end with an attack: the number of every such round is a multiple of this.
_ATTACK_EVERY = 4
#: A tree whose members have at most so many unstable ReLUs each, with so many open combinations,
#: goes to programs after so many seconds of work; each may take this share of the time left.
_FEW, _MOST_PROGRAMS, _PATIENCE, _PROGRAM_SHARE = 160, 16, 0.1, 0.5

OPEN, PROVED, BROKEN, GIVEN_UP = range(4)


class Roots(NamedTuple):
    """D combinations of a tuple, as they were bounded on the whole network.

    Attributes:
        rows: (D, s) a margin of each member.
        parameter: (D, s, M) α, for the columns of the relaxation of all images.
        logits: (D, s) of the members' weights.
    """

    rows: Tensor
    parameter: Tensor
    logits: Tensor

    def at(self, which: Tensor) -> Roots:
        """Return some of the combinations."""
        return Roots(*(part[which] for part in self))


class Tree:
    """The search for a proof, or for a perturbation that breaks all members of one tuple.

    Args:
        images: Where the members come from.
        members: Their numbers.
        roots: Every combination of their margins that would break it, at least one.

    Attributes:
        state: OPEN, PROVED, BROKEN or GIVEN_UP.
        u: What breaks all members (...), if BROKEN.
        claimed: Whether the solver of programs says that nothing does, which proves nothing.
        spent: Seconds of work.
    """

    def __init__(self, images: ReducedImages, members: list[int], roots: Roots):
        begin = time.perf_counter()
        self.images, self.members = images, torch.tensor(members, device=roots.rows.device)
        self.engine = images.engine
        self.state, self._bounded = OPEN, 0
        self.u: Tensor | None = None
        self.claimed = False
        self._exact, self._networks = zip(*map(images.networks, members), strict=True)
        self._threshold = float(images.images.threshold[self.members].max())
        self._at_once = max(2, self.engine.rows_at_once // len(members))
        self._descent = Descent(self._networks, self.engine.ball, roots.rows)
        self._roots = self._unsplit(roots)
        self._pool = Pool(self._roots.at(roots.rows.new_zeros(0)))
        self._leaves: list[Domains] = []
        self._rounds = 0
        ball, few = self.engine.ball, max(map(len, self._networks)) <= _FEW
        self._programs_wait = few and ball.norm != 2 and ball.clip is None
        self.spent = time.perf_counter() - begin

    @property
    def numbers(self) -> int:
        """How many α and β are kept."""
        return self._pool.numbers

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
            if self._roots.size:
                self._bound_roots()
            else:
                self._split()
            if self.state == OPEN and not self._roots.size and not self._pool.count:
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
        """Decide all open combinations by programs, if each of them is decided."""
        rows = torch.cat([self._pool.rows, self._roots.rows]).unique(dim=0)
        if len(rows) > _MOST_PROGRAMS:
            return
        proved = self.engine.proofs is None  # what programs prove cannot be written to a file
        for row in rows.tolist():
            program = Program.of(self._exact, self.engine.ball, row)
            answer = program.search(_PROGRAM_SHARE * time_left())
            if answer.u is not None:
                self._try(answer.u.to(self.images.images.x).unsqueeze(0))
            if not answer.impossible:
                return
            proved = proved and program.refuted(self.engine.least * self._threshold)
        self.claimed = True
        if proved:
            self.state = PROVED

    def keep_proofs(self) -> None:
        """Hand on the parts, if the whole network's bounds of all of them are positive too."""
        engine, images = self.engine, self.images.images
        if engine.proofs is None:
            return
        rows, signs, parameter, logits, *_ = map(torch.cat, zip(*self._leaves, strict=True))
        members, weights = self.members.expand(len(rows), -1), logits.double().softmax(1)
        parameter, signs = self._whole(parameter), self._whole(signs)
        for part in torch.arange(len(rows), device=rows.device).split(self._at_once):
            its = part.unsqueeze(1) * len(self.members) + torch.arange(len(self.members)).to(part)
            dual = engine.dual(images, members[part], rows[part], signs=signs[its.flatten()])
            exact = dual.rows(torch.arange(its.numel()), engine.exact_segments, torch.float64)
            value = exact(parameter[its.flatten()].double(), weights[part]).value
            if not bool((value > engine.least * self._threshold).all()):
                return
        engine.proofs.add(images, members, rows, parameter=parameter, signs=signs, weights=weights)

    def _whole(self, values: Tensor) -> Tensor:
        """Return values (D, M) as rows (D·s, M') for the columns of the images' relaxation."""
        width = self.images.images.relaxation.lower.shape[1]
        parts = values.split([len(network) for network in self._networks], dim=1)
        rows = [
            part.new_zeros(len(part), width).index_copy_(1, network.columns, part)
            for network, part in zip(self._networks, parts, strict=True)
        ]
        return torch.stack(rows, dim=1).flatten(0, 1)

    def _bound_roots(self) -> None:
        """Choose the first splits of the next combinations."""
        every = torch.arange(self._roots.size, device=self.members.device)
        now = self._roots.at(every[: self._at_once])
        self._roots = self._roots.at(every[self._at_once :])
        self._bound(now, 0)

    def _split(self) -> None:
        """Halve the most promising domains, bound the halves, and attack in some rounds.

        The problem is given up where a domain has no neuron left to split, and neither many
        more steps prove it nor an attack breaks the members.
        """
        now = self._pool.take(self._at_once // 2)
        last = now.choice < 0
        if bool(last.any()) and self._bound(now.at(last), _LAST_STEPS, attack=True):
            self.state = GIVEN_UP if self.state == OPEN else self.state
        attack = self._rounds % _ATTACK_EVERY == 0
        self._bound(now.at(~last).halves(), _STEPS, attack=attack)

    def _bound(self, domains: Domains, steps: int, *, attack: bool = False) -> int:
        """Bound domains, and put those that stay unproved into the pool; return how many.

        Halves start from the last parameters of the ascent, not the best: fewer are needed so.
        """
        if not domains.size or self.state != OPEN:
            return 0
        dual = ReducedBound(self._networks, self.engine.ball, domains.rows, domains.signs)
        start = columns(domains.parameter)
        found = ascend_dual(dual, steps, parameter=start, logits=domains.logits, rate=_RATE)
        self._bounded += domains.size
        left = (~self._proved(domains, found)).nonzero().squeeze(1)
        if not len(left):
            return 0
        if attack:
            self._try(self._descent(domains.rows[left], found.point.u[left]))
        score = dual.split_scores(found.point, found.last[1].softmax(1))
        best, choice = pad(score[left], (0, 1), value=-1.0).max(1)  # of none where none is left
        self._pool.add(
            Domains(
                domains.rows[left],
                domains.signs[left],
                found.last[0][left],
                found.last[1][left],
                found.value[left],
                torch.where(best >= 0, choice, -1),
            )
        )
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
            best = domains._replace(parameter=found.parameter, logits=found.logits)
            self._leaves.append(best.at(proved))
        return proved

    def _try(self, u: Tensor) -> None:
        """Note the first of the perturbations (n, ...) that breaks all members."""
        if not len(u):
            return
        members = self.members.expand(len(u), -1)
        broken = self.engine.broken(self.images.images, members, u).all(1).nonzero()
        if len(broken):
            self.state, self.u = BROKEN, u[broken[0, 0]].contiguous()

    def _unsplit(self, roots: Roots) -> Domains:
        """Return combinations as domains."""
        each = zip(self._networks, roots.parameter.unbind(1), strict=True)
        parameter = torch.cat([values[:, network.columns] for network, values in each], dim=1)
        signs = torch.zeros_like(parameter, dtype=torch.int8)
        value = roots.logits[:, 0]  # of no meaning yet, as is the choice
        return Domains(roots.rows, signs, parameter, roots.logits, value, roots.rows[:, 0])
