"""The stages that try to prove single images, cheapest first, and what they work on."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..bounds.checks import check_name
from ..bounds.deadline import ending_by, time_is_over, time_left
from .budget import Budget
from .certificates import Proof
from .crown.branch_and_bound import Outcome, Problems, branch_and_bound
from .crown.engine import DualEngine
from .crown.reduced_images import ReducedImages
from .crown.tree import OPEN, PROVED
from .engines import Engine
from .memory import in_batches, in_less_memory

Result = TypeVar("Result")
#: Of the time for CROWN, and for branch and bound, what may go into bounds of ReLU inputs.
_TIGHTENING_SHARE, _REFINING_SHARE = 0.75, 0.5


@dataclass(frozen=True)
class Limits:
    """How much time and memory stages may take.

    Args:
        time_limit: Seconds of all stages together for each group that has open inputs.
        batch_size: Inputs that IBP bounds together. Other stages bound fewer, but as many as
            the engine bounds margins together.
    """

    time_limit: float = 10.0
    batch_size: int = 256


class OpenImages:
    """The inputs of a batch that are neither proved nor broken, as the stages work on them.

    Args:
        engine: Gives the bounds.
        x: (N, ...) all inputs of the batch.
        y: (N,) their labels.
        group: (N,) the group that each belongs to.
        proof: What is known of them.
        limits: Of time and memory.
        announce: Receives what is being done.

    Attributes:
        number: (n,) places in the batch of those that the stage works on.
        images: These, as the engine knows them; None before the first stage.
        stage: The number of the stage that works on them.
        missing: (N,) which of them did not fit into memory in this stage.
        late: (N,) for which of them its time was over before it was done with them.
        effort: (N,) by which the time of this stage is shared among the inputs.
        claimed: How many of them a solver alone calls safe, which proves nothing.
    """

    def __init__(
        self,
        engine: Engine,
        x: Tensor,
        y: Tensor,
        group: Tensor,
        proof: Proof,
        limits: Limits,
        announce: Callable[[str], object],
    ):
        self.engine, self.x, self.y, self.group, self.proof = engine, x, y, group, proof
        self.limits, self.announce = limits, announce
        self.number = torch.arange(len(x), device=x.device)
        self.late = torch.zeros_like(proof.open)
        self.images: Any = None

    def begin(self, number: int, stage: Stage) -> None:
        """Forget the inputs that are decided, and go on to stage ``number`` with the others."""
        self.stage = number
        open_ = self.proof.open
        self.missing = torch.zeros_like(open_)
        # what no earlier stage had the time to begin with is out of this one's reach too
        self.late = self.late.index_fill(0, self.number, False)
        if number and stage.name in self.proof.late:
            # a run that was stopped came to this stage; IBP alone bounds all inputs anew
            self.late |= self.proof.late[stage.name] & (self.proof.tried >= number)
        self.effort, self.claimed = open_.double(), 0
        size, rows = self.limits.batch_size, self.engine.rows_at_once
        self._at_once = max(1, size // stage.cost, min(size, rows))
        staying = open_[self.number].nonzero().squeeze(1)
        self.number = self.number[staying]
        if self.images is not None:
            self.images = self.images.rows(staying) if len(staying) else None

    def each(
        self, work: Callable[[Tensor], Result], order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Result]]:
        """Yield (places in ``number``, ``work`` of them), as many as fit into memory together.

        Those that do not fit alone are counted as missing. Those that are not reached in time
        are counted as late, and not yielded. Those that are worked on when the time ends are
        counted as late too, as the work may have been cut short.

        Args:
            work: Computes something of the images at some places.
            order: (n,) the places; all, in order, if None.
        """
        if order is None:
            order = torch.arange(len(self.number), device=self.number.device)
        left = torch.zeros_like(self.late).index_fill(0, self.number[order], True)
        try:
            for now, result in in_batches(work, order, self._at_once):
                left[self.number[now]] = time_is_over()
                if result is None:
                    self.missing[self.number[now]] = True
                else:
                    yield now, result
        finally:
            self.late |= left

    def note(self, places: Tensor, lower: Tensor, proved: Tensor) -> None:
        """Add bounds (m, K-1) of the images at some places, and which of them are proved."""
        which = self.number[places]
        # a bound that is NaN leaves the one before it
        self.proof.lower[which] = torch.fmax(self.proof.lower[which], lower)
        self.proof.rows[which] |= proved
        self.proof.tried[which] = self.proof.tried[which].clamp(min=self.stage)

    def untried(self, stage: int) -> Tensor:
        """Return the places of images that neither ``stage`` nor a later one has bounded.

        An evaluation that was stopped goes on with them; those that came less far come first.
        """
        tried = self.proof.tried[self.number]
        order = tried.argsort(stable=True)
        return order[tried[order] < stage]

    def keep(self, places: list[Tensor], images: list[Any]) -> None:
        """Go on with the images at these places, as the engine knows them now."""
        self.number = self.number[torch.cat(places)] if places else self.number[:0]
        self.images = type(images[0]).cat(images) if len(self.number) else None

    def improve(
        self, better: Callable[[Any], Any], order: Tensor | None = None, *, forget: bool = False
    ) -> None:
        """Compute better bounds of ReLU inputs; images that do not fit keep those they have.

        Args:
            better: Returns images with better bounds.
            order: (n,) places, the first to be improved first.
            forget: Whether images that were not reached in time are forgotten, being of no use
                to the stage without the bounds. Otherwise they keep theirs, and come last.
        """
        images, places, parts = self.images, [], []
        if images is None:
            return
        for now, found in self.each(lambda now: better(images.rows(now)), order):
            places.append(now)
            parts.append(found)
        left = torch.ones_like(self.missing[self.number])
        left[torch.cat(places) if places else []] = False
        left = (left & self.missing[self.number] if forget else left).nonzero().squeeze(1)
        if len(left):
            places.append(left)
            parts.append(images.rows(left))
        self.keep(places, parts)


@dataclass(frozen=True)
class Stage:
    """One way to prove images.

    Args:
        name: What users choose it by, and what it is called in results.
        cost: The memory that an image takes, in that of IBP, where all are bounded together.
        prove: Works on open images: it notes bounds and what is proved by them, through the
            engine, which takes rounding into account. It raises ModelError where the network
            does not allow it.
    """

    name: str
    cost: int
    prove: Callable[[OpenImages], None]


def _by_ibp(open_: OpenImages) -> None:
    """Bound images by IBP, which also makes them what the later stages start from."""
    x, y = open_.x[open_.number], open_.y[open_.number]
    places, images = [], []
    for now, (found, lower, proved) in open_.each(lambda now: open_.engine.ibp(x[now], y[now])):
        open_.note(now, lower, proved)
        places.append(now[found.usable])
        images.append(found.rows(found.usable))
    open_.keep(places, images)


def _by_crown_ibp(open_: OpenImages, iterations: int = 0) -> None:
    """Bound the margins that are open by linear bounds, on the ReLU inputs' bounds of now."""
    images = open_.images
    if images is None:
        return

    def bounds(now: Tensor) -> tuple[Tensor, Tensor]:
        unproved = ~open_.proof.rows[open_.number[now]]
        return open_.engine.margins(images.rows(now), unproved, iterations)

    for now, (lower, proved) in open_.each(bounds, open_.untried(open_.stage)):
        open_.note(now, lower, proved)


def _by_crown(open_: OpenImages) -> None:
    """Bound the open margins by CROWN, on ReLU inputs bounded by CROWN."""
    with ending_by(time.perf_counter() + _TIGHTENING_SHARE * time_left()):
        # the next stage uses these bounds too
        open_.improve(open_.engine.tightened, open_.untried(open_.stage + 1))
    _by_crown_ibp(open_)


def _by_alpha_crown(open_: OpenImages) -> None:
    """Bound the open margins by α-CROWN, on the bounds of ReLU inputs that CROWN left.

    In other networks than those of ReLU alone, these are bounded by α-CROWN too.
    """
    engine = open_.engine
    if isinstance(engine, DualEngine) and engine.input_steps:
        with ending_by(time.perf_counter() + _TIGHTENING_SHARE * time_left()):
            better = functools.partial(engine.tightened, steps=engine.input_steps)
            open_.improve(better, open_.untried(open_.stage))
    _by_crown_ibp(open_, engine.alpha_steps)


def _by_branch_and_bound(open_: OpenImages) -> None:
    """Prove or break images by branch and bound, the most hopeful ones first."""
    engine, proof = open_.engine.as_dual(), open_.proof
    budget = Budget.of(open_.limits.time_limit, len(open_.group[open_.number].unique()))
    hope = torch.where(proof.rows, torch.inf, proof.lower)[open_.number].min(dim=1).values
    order = hope.argsort(descending=True)
    with ending_by(budget.part(_REFINING_SHARE).deadline):
        open_.improve(engine.refined, order, forget=True)
    images, number = open_.images, open_.number
    if images is None:
        return
    problem, row = (~proof.rows[number]).nonzero(as_tuple=True)
    members = torch.arange(len(number), device=problem.device).unsqueeze(1)
    problems = Problems(members, problem, row.unsqueeze(1))

    def take(found: Outcome) -> None:
        """Note what is decided, so that it is kept where the search is stopped."""
        # an image's share of the time is that of its domains
        open_.effort = torch.zeros_like(open_.effort).index_put((number,), found.bounded.double())
        proof.rows[number[found.state == PROVED]] = True
        open_.claimed = int((found.claimed & (found.state != PROVED)).sum())
        for broken, u in found.u.items():
            proof.v[number[broken]], proof.attacked[number[broken]] = u, True
        open_.announce(f"bab, {int((found.state == OPEN).sum())} left")

    def search() -> Outcome:
        return branch_and_bound(ReducedImages(engine, images), problems, budget, progress=take)

    outcome = in_less_memory(engine, search)
    if outcome is None:
        open_.missing[number] = True
        return
    take(outcome)
    open_.late[number] |= ~outcome.exhausted


#: The stages, in the order in which they run. A new stage is one more row.
_STAGES = (
    Stage("ibp", 1, _by_ibp),
    Stage("crown-ibp", 4, _by_crown_ibp),
    Stage("crown", 8, _by_crown),
    Stage("alpha-crown", 16, _by_alpha_crown),
    Stage("bab", 16, _by_branch_and_bound),
)
#: Their names.
STAGES = tuple(stage.name for stage in _STAGES)


def stages_up_to(method: str) -> tuple[Stage, ...]:
    """Return a stage and the cheaper ones: CROWN-IBP alone can be looser than IBP."""
    check_name(method, "method", STAGES)
    return _STAGES[: STAGES.index(method) + 1]
