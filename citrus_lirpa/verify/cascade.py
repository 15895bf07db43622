"""The stages as one certification runs them: the attacks come where bounds begin to cost more."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attacks import PGD
from ..bounds.box import Ball
from ..bounds.deadline import ending_by
from ..bounds.net import BoundedNet
from ..bounds.selfcheck import check_same_function
from ..errors import ModelError
from .certificates import Certificates, Proof
from .engines import Engine
from .single_attacks import aim, attempt
from .stages import Limits, OpenImages, Stage
from .unfinished import Unfinished

#: The stage of inputs that another verifier proved.
IMPORTED = "imported"
#: Of the time that is left, what the attacks may take, and each stage but the last one.
_ATTACK_SHARE, _STAGE_SHARE = 0.25, 0.5
#: The stages that cost more than attacks on two margins, and than the given one.
_AIMED_BEFORE, _ATTACKED_BEFORE = "crown", "alpha-crown"
#: Seconds that a batch gets for all that comes before branch and bound, however short the limit.
_LEAST_SECONDS = 0.5
#: Attacks open images (n, ...) of a network, notes what it breaks, and takes so many rows at once.
Attack = Callable[[BoundedNet, Ball, Tensor, Tensor, Proof, int], None]


@dataclass(frozen=True)
class Cascade:
    """The stages as one certification runs them, batch after batch.

    Args:
        net: The network, in eval mode.
        ball: The perturbations.
        engine: Gives the bounds.
        stages: In the order in which they run.
        attack: What is tried on open inputs before the costly ones; None for no attacks.
        limits: Of time and memory.
        announce: Receives what is being done.
    """

    net: BoundedNet
    ball: Ball
    engine: Engine
    stages: tuple[Stage, ...]
    attack: PGD | None = None
    limits: Limits = Limits()
    announce: Callable[[str], object] = lambda stage: None

    def certificates(
        self,
        x: Tensor,
        y: Tensor,
        group: Tensor,
        known: Tensor | None = None,
        unfinished: Unfinished | None = None,
    ) -> Certificates:
        """Return the certificates of one batch.

        Args:
            x: (n, ...) inputs.
            y: (n,) labels.
            group: (n,) the group that each belongs to.
            known: (n,) verdicts from elsewhere, as of :func:`certify`.
            unfinished: As of :func:`certify`.
        """
        unfinished = unfinished or Unfinished()
        logits = self._logits(x)
        proof = unfinished.proof = unfinished.proof or Proof.of(x, y, logits)
        end = time.perf_counter() + _LEAST_SECONDS
        if known is not None:
            proof.take(known, len(self.stages))
        open_ = OpenImages(self.engine, x, y, group, proof, self.limits, self.announce)
        not_fitting, late, unsupported, attacks = {}, {}, {}, self._attacks(proof)
        for number, stage in enumerate(self.stages):
            if stage.name in attacks:
                until = max(end, self._end(_ATTACK_SHARE, proof, group))
                self._try(attacks.pop(stage.name), x, y, proof, until)
            share = 1.0 if stage is self.stages[-1] else _STAGE_SHARE
            with self._timed(stage.name, proof, lambda: open_.effort):
                open_.begin(number, stage)
                try:
                    with ending_by(max(end, self._end(share, proof, group))):
                        stage.prove(open_)
                except ModelError as error:
                    if number == 0:  # without bounds of the first stage there are none
                        raise
                    unsupported[stage.name] = str(error)
                finally:
                    proof.decide(number)
                    proof.late[stage.name] = open_.late
            not_fitting[stage.name] = int(open_.missing.sum())
            if stage.name not in unsupported:
                late[stage.name] = int((open_.late & proof.open).sum())
        for attack in attacks.values():  # before stages that were not asked for
            self._try(attack, x, y, proof, max(end, self._end(_ATTACK_SHARE, proof, group)))
        if known is not None:
            proof.seconds[IMPORTED], not_fitting[IMPORTED] = 0.0, 0
        return proof.certificates(self.ball, not_fitting, late, unsupported, open_.claimed)

    @torch.no_grad()
    def _logits(self, x: Tensor) -> Tensor:
        """Return the logits (n, K), once they are known to be those that are bounded."""
        logits = self.net(x)
        if len(x):
            check_same_function(self.net, x, logits)
        return logits

    @contextmanager
    def _timed(self, name: str, proof: Proof, effort: Callable[[], Tensor]) -> Iterator[None]:
        """Announce what the block does, and share out its time by its effort (n,) at the end."""
        self.announce(name)
        begin = time.perf_counter()
        try:
            yield
        finally:
            proof.charge(name, effort(), time.perf_counter() - begin)

    def _end(self, share: float, proof: Proof, group: Tensor) -> float:
        """Return when a share of the time is over that groups with open inputs have left."""
        _, number = group.unique(return_inverse=True)
        used = torch.zeros_like(proof.took).index_add(0, number, proof.took)
        unsettled = number[proof.open].unique()
        left = float((self.limits.time_limit - used[unsettled]).clamp(min=0).sum())
        return time.perf_counter() + share * left

    def _attacks(self, proof: Proof) -> dict[str, Attack]:
        """Return what attacks open images, by the stage that costs more, which it comes before."""
        if self.attack is None:
            return {}
        elsewhere = proof.decided_by == len(self.stages)
        return {
            _AIMED_BEFORE: aim,
            _ATTACKED_BEFORE: functools.partial(attempt, self.attack, elsewhere),
        }

    def _try(self, attack: Attack, x: Tensor, y: Tensor, proof: Proof, end: float) -> None:
        """Attack what is open until a point in time."""
        trying = proof.open & ~proof.attempted
        with self._timed("attack", proof, trying.double), ending_by(end):
            attack(self.net, self.ball, x, y, proof, self.limits.batch_size)
