"""Certification of single inputs: stages from cheap to dear, each on what is still open."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..attacks import PGD
from ..bounds.box import Box, clamp
from ..bounds.checks import (
    Range,
    check_count,
    check_fits,
    check_name,
    check_one_radius,
    check_range,
    check_seconds,
    shown,
)
from ..bounds.inputs import check_labelled
from ..bounds.net import METHODS, BoundedNet, as_bounded_net
from ..bounds.precision import full_precision, rounding_threshold
from ..bounds.selfcheck import check_same_function
from ..errors import InputError, ModelError, SoundnessError
from .certificates import Certificates
from .crown.branch_and_bound import PROVED, Problems, branch_and_bound
from .crown.engine import ALPHA_STEPS, IN_FLOAT64, Engine, Images
from .memory import allocations_fail_cleanly, in_batches, in_less_memory

#: Bound methods, cheapest first, then branch and bound.
STAGES = (*METHODS, "bab")
#: The stage of inputs that another verifier proved.
IMPORTED = "imported"
#: Images bounded at once are ``batch_size`` divided by this: what an image costs in memory.
_COST = {"ibp": 1, "crown-ibp": 4, "crown": 8, "alpha-crown": 16, "bab": 16}
#: Inputs on which the network is compared with the graph that is bounded.
_CHECKED = 4
#: Of the time for branch and bound, what may go into bounds of ReLU inputs before it.
_REFINING_SHARE = 0.5


def stages_up_to(method: str) -> tuple[str, ...]:
    """``method`` and the cheaper ones, cheapest first: CROWN-IBP alone can be looser than IBP."""
    check_name(method, "method", STAGES)
    return STAGES[: STAGES.index(method) + 1]


def certify(
    net: object,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    method: str = "alpha-crown",
    attack: PGD | None = None,
    time_limit: float = 10.0,
    group_size: int = 1,
    known: Tensor | None = None,
    clip: Range | None = None,
    batch_size: int = 256,
    progress: bool = False,
    announce: Callable[[str], object] = lambda stage: None,
) -> Certificates:
    """Try to prove each input's class on its ε-box by every stage up to ``method``.

    x: (N, ...) inputs; y: (N,) labels. Each stage runs only on the correctly classified
    inputs that no cheaper one proved and that ``attack``, tried first, did not break. ``bab``
    is branch and bound, for ``time_limit`` seconds per input (or per group of ``group_size``
    consecutive ones) that is then still open; easy ones come first. ``known`` (N,) are
    verdicts from elsewhere, taken as they are: 1 proved (its stage is ``imported``), -1
    attacked, 0 unknown. ``clip`` cuts perturbed inputs to that range. ``batch_size`` inputs go
    through the stages together; ``announce`` is told the stage, unless a bar shows it.

    A proof is a margin bound above a threshold that covers float32 rounding, or a positive
    one in float64; TF32 and autocast are off and BatchNorm in eval mode. Networks of affine
    layers and ReLU are bounded by this package's dual engine, which gives the bounds of
    auto_LiRPA's methods in a fraction of their time; all others by auto_LiRPA, and without
    ``bab``.

    Raises InputError for values that cannot be used, SoundnessError where ``attack`` breaks
    what ``known`` has as proved.
    """
    net = as_bounded_net(net)
    eps = check_certifiable(net, x, y, eps, clip, time_limit)
    check_count(batch_size, "batch size")
    check_count(group_size, "group size")
    if not (attack is None or callable(attack)):
        raise InputError(f"the attack is {shown(attack)}; expected PGD() or None")
    stages = stages_up_to(method)
    if known is not None:
        _check_known(known, y)
        stages = (*stages, IMPORTED)
    parts = []
    with (
        tqdm(total=len(x), unit="image", disable=not progress) as bar,
        net.evaluating(),
        full_precision(x.device),
        allocations_fail_cleanly(x.device),
    ):
        engine, twin = find_engine(net, eps, clip), functools.cache(lambda: _in_float64(net))
        if net.module is not net.bounded and len(x):
            check_same_function(net, x[:_CHECKED])
        for rows in torch.arange(len(x), device=x.device).split(batch_size):
            part = _Cascade(net, engine, twin, x[rows], y[rows], eps, clip, batch_size)
            if known is not None:
                part.take(known[rows], stages.index(IMPORTED))
            tell = announce if not progress else bar.set_description
            parts.append(part.run(stages, attack, time_limit, rows // group_size, tell))
            bar.update(len(rows))
    return Certificates.cat(parts)


def check_certifiable(
    net: BoundedNet, x: Tensor, y: Tensor, eps: float, clip: Range | None, time_limit: float
) -> float:
    """ε; refuses what nothing could be proved of, or wrongly: float32 is the least precision
    that the rounding threshold covers."""
    eps = check_one_radius(eps)
    check_labelled(net, x, y, least=0)
    if x.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"inputs and network are {x.dtype}, whose rounding no certificate covers; use "
            "torch.float32 or torch.float64"
        )
    check_range(clip)
    check_fits(clip, x[:1], "clip")  # of all images alike: bounds of tuples rest on it
    check_seconds(time_limit)
    return eps


def _check_known(known: Tensor, y: Tensor) -> None:
    whole = isinstance(known, Tensor) and known.dtype == torch.int64 and not known.is_meta
    if not whole or known.shape != y.shape or bool((known.abs() > 1).any()):
        raise InputError(
            f"known is {shown(known)}; expected torch.int64 of shape ({len(y)},): 1 proved, "
            "-1 attacked, 0 unknown"
        )


def find_engine(net: BoundedNet, eps: float, clip: Range | None) -> Engine | str:
    """The dual engine of a network in eval mode, or why it has none."""
    try:
        return Engine(net, eps, clip)
    except ModelError as error:
        return str(error)


def _in_float64(net: BoundedNet) -> BoundedNet | None:
    """The network in double precision; None where that cannot be had."""
    try:
        twin = net.in_float64()
    except ModelError:  # a forward pass may make float32 of its own
        return None
    return None if twin is None else twin.eval()


class _Cascade:
    """One batch of inputs on its way through the stages."""

    def __init__(
        self,
        net: BoundedNet,
        engine: Engine | str,
        twin: Callable[[], BoundedNet | None],
        x: Tensor,
        y: Tensor,
        eps: float,
        clip: Range | None,
        batch_size: int,
    ):
        self.net, self.twin, self.x, self.y = net, twin, x, y
        self.engine: Any = engine  # or, in words, why there is none
        self.eps, self.clip, self.batch_size = eps, clip, batch_size
        with torch.no_grad():
            logits = net(x)
        self.logits = logits
        self.correct = logits.argmax(1) == y
        self.threshold = rounding_threshold(logits)
        self.attacked = torch.zeros_like(self.correct)
        self.v = torch.zeros_like(x)
        shape = (len(x), net.classes - 1)
        self.lower = torch.full(shape, -torch.inf, dtype=x.dtype, device=x.device)
        self.rows = torch.zeros(shape, dtype=torch.bool, device=x.device)
        self.decided_by = torch.full((len(x),), -1, device=x.device)
        self.took = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        self.images: Images | None = None  # of the inputs numbered ``self.held``
        self.held = torch.arange(0, device=x.device)
        self.missing = torch.zeros_like(self.correct)

    def take(self, known: Tensor, number: int) -> None:
        """Verdicts from elsewhere: 1 proved, by stage ``number``, -1 attacked."""
        self.attacked |= (known < 0) & self.correct
        proved = (known > 0) & self.correct
        self.decided_by[proved], self.rows[proved] = number, True

    def run(
        self,
        stages: tuple[str, ...],
        attack: PGD | None,
        time_limit: float,
        group: Tensor,
        announce: Callable[[str], object],
    ) -> Certificates:
        seconds, not_fitting, unsupported = {}, {}, {}
        for number, stage in enumerate(stages):
            if attack is not None and number == 0:
                announce("attack")
                begin = time.perf_counter()
                self._attack(attack)
                seconds["attack"] = time.perf_counter() - begin
            not_fitting[stage], seconds[stage] = 0, 0.0
            if stage == IMPORTED:
                continue
            announce(stage)
            begin = time.perf_counter()
            self.missing = torch.zeros_like(self.correct)
            rows = (self.correct & ~self.attacked & (self.decided_by < 0)).nonzero().squeeze(1)
            try:
                proved = self._run(stage, rows, time_limit, group, announce)
            except ModelError as error:
                if number == 0:
                    raise
                unsupported[stage] = str(error)
            else:
                self.decided_by[proved] = number
            seconds[stage] = time.perf_counter() - begin
            not_fitting[stage] = int(self.missing.sum())
            if stage != "bab" or isinstance(self.engine, str):
                self.took[rows] += seconds[stage] / max(1, len(rows))
        return Certificates(
            self.eps,
            self.clip,
            stages,
            self.correct,
            self.attacked,
            self.v[self.attacked],
            self.lower.min(dim=1).values,
            self.rows,
            self.decided_by,
            self.took,
            seconds,
            not_fitting,
            unsupported,
        )

    def _attack(self, attack: PGD) -> None:
        rows = (self.correct & ~self.attacked).nonzero().squeeze(1)
        if len(rows) == 0:
            return
        v = attack(self.net, self.x[rows], self.y[rows], self.eps)
        with torch.no_grad():
            logits = self.net(clamp(self.x[rows] + v, self.clip))
        self.attacked[rows], self.v[rows] = logits.argmax(1) != self.y[rows], v
        wrong = (self.attacked & (self.decided_by >= 0)).nonzero().flatten().tolist()
        if wrong:
            raise SoundnessError(
                f"an attack breaks {len(wrong)} inputs that the imported verdicts call "
                f"certified (first: number {wrong[0]} of this batch)"
            )

    def _run(
        self,
        stage: str,
        rows: Tensor,
        time_limit: float,
        group: Tensor,
        announce: Callable[[str], object],
    ) -> Tensor:
        """The numbers of the inputs among ``rows`` that the stage proves."""
        if isinstance(self.engine, str):
            if stage == "bab":
                raise ModelError(self.engine)
            return self._by_auto_lirpa(stage, rows)
        if stage == "ibp":
            self._bound_by_ibp(rows)
        else:
            self._keep(rows)
            if stage == "bab":
                self._branch_and_bound(time_limit, group, announce)
            else:
                self._bound_by_engine(stage)
        return self.held[self.rows[self.held].all(1)]

    @torch.no_grad()
    def _by_auto_lirpa(self, stage: str, rows: Tensor) -> Tensor:
        def bound(now: Tensor) -> tuple[Tensor, Tensor]:
            lower = self._margins(self.net, now, stage)
            found = rounding_threshold(self.logits[now], self.net.hidden_bounds())
            self.threshold[now] = torch.maximum(self.threshold[now], found)
            positive = lower > self.threshold[now].unsqueeze(1)
            near = ((lower > 0) & ~positive).any(1)
            if bool(near.any()) and (twin := self.twin()) is not None:
                exact = self._margins(twin, now[near], stage)
                positive[near] |= exact > IN_FLOAT64 * self.threshold[now[near]].unsqueeze(1)
            return lower, positive

        proved = [rows[:0]]
        for done, (lower, positive) in self._batches(bound, rows, stage):
            self._note(done, lower, positive)
            proved.append(done[positive.all(1)])
        return torch.cat(proved)

    def _margins(self, net: BoundedNet, now: Tensor, stage: str) -> Tensor:
        """auto_LiRPA's bounds of the margins of the inputs ``now``, in the precision of ``net``."""
        x = self.x[now] if net is self.net else self.x[now].double()
        return net.margins(Box.around(x, self.eps, self.clip), self.y[now], stage)

    def _bound_by_ibp(self, rows: Tensor) -> None:
        held, images = [rows[:0]], []
        for done, (found, lower) in self._batches(
            lambda now: self.engine.ibp(self.x[now], self.y[now]), rows, "ibp"
        ):
            usable = found.usable
            positive = self.engine.surely_positive(lower, found) & usable.unsqueeze(1)
            self._note(done, lower, positive)
            held.append(done[usable])
            images.append(found.rows(usable))
        self.held = torch.cat(held)
        self.images = Images.cat(images) if len(self.held) else None

    def _bound_by_engine(self, stage: str) -> None:
        if stage == "crown":
            self._tighten(self.engine.tightened, stage)
        if self.images is None:
            return
        every = torch.arange(len(self.held), device=self.held.device)
        images, steps = self.images, ALPHA_STEPS if stage == "alpha-crown" else 0

        def bound(now: Tensor) -> tuple[Tensor, Tensor]:
            return self.engine.margins(images.rows(now), ~self.rows[self.held[now]], steps)

        for now, found in self._batches(bound, every, stage, self.held):
            self._note(self.held[now], *found)

    def _tighten(
        self,
        improve: Callable[[Images], Images],
        stage: str,
        order: Tensor | None = None,
        until: float = math.inf,
    ) -> None:
        """Better bounds of ReLU inputs; images that do not fit keep those they have.

        In ``order``, of positions in ``held``; images not reached ``until`` then are forgotten.
        """
        if self.images is None:
            return
        images, reached, parts = self.images, [], []
        every = torch.arange(len(self.held), device=self.held.device)
        for now, found in self._batches(
            lambda now: improve(images.rows(now)),
            every if order is None else order,
            stage,
            self.held,
        ):
            reached.append(now)
            parts.append(found)
            if time.perf_counter() > until:
                break
        left = every[self.missing[self.held]]
        if len(left):
            reached.append(left)
            parts.append(images.rows(left))
        self.held, self.images = self.held[torch.cat(reached)], Images.cat(parts)

    def _branch_and_bound(
        self, time_limit: float, group: Tensor, announce: Callable[[str], object]
    ) -> None:
        if self.images is None:
            return
        begin = time.perf_counter()
        total = time_limit * len(group[self.held].unique())
        hope = torch.where(self.rows, torch.inf, self.lower)[self.held].min(dim=1).values
        order = hope.argsort(descending=True)
        self._tighten(self.engine.refined, "bab", order, begin + total * _REFINING_SHARE)
        images = self.images
        problem, row = (~self.rows[self.held]).nonzero(as_tuple=True)
        members = torch.arange(len(self.held), device=problem.device).unsqueeze(1)
        problems = Problems(members, problem, row.unsqueeze(1))
        outcome = in_less_memory(
            self.engine,
            lambda: branch_and_bound(
                self.engine,
                images,
                problems,
                deadline=begin + total,
                limit=time_limit,
                progress=lambda left: announce(f"bab, {left} left"),
            ),
        )
        if outcome is None:
            self.missing[self.held] = True
            return
        share = outcome.bounded.double() / max(1, int(outcome.bounded.sum()))
        self.took[self.held] += share * (time.perf_counter() - begin)
        self.rows[self.held[outcome.state == PROVED]] = True
        for broken, u in outcome.u.items():
            self.attacked[self.held[broken]], self.v[self.held[broken]] = True, u

    def _batches(
        self,
        bound: Callable[[Tensor], Any],
        rows: Tensor,
        stage: str,
        inputs: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Any]]:
        """``bound`` of parts of ``rows`` that fit into memory; the others are counted.

        inputs: the numbers of the inputs that ``rows`` refer to, themselves if None.
        """
        size = max(1, self.batch_size // _COST[stage])
        for done, result in in_batches(bound, rows, size, lambda count: None):
            if result is None:
                self.missing[done if inputs is None else inputs[done]] = True
            else:
                yield done, result

    def _note(self, which: Tensor, lower: Tensor, positive: Tensor) -> None:
        self.lower[which] = torch.fmax(self.lower[which], lower)
        self.rows[which] |= positive

    def _keep(self, rows: Tensor) -> None:
        """Forget the images that are decided."""
        staying = torch.isin(self.held, rows).nonzero().squeeze(1)
        self.held = self.held[staying]
        if self.images is not None:
            self.images = self.images.rows(staying) if len(staying) else None
