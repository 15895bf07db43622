"""The batches of an evaluation: each is certified as a whole, and kept until the end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import distributed
from ..attacks import PGD
from ..bounds.deadline import ending_by
from ..bounds.net import BoundedNet
from .crown.proofs import Proofs
from .groups import certify_uap
from .proof_files import ProofFolder
from .protocol import Protocol
from .resume import Batch, Saved, from_plain, to_plain
from .single import certify
from .unfinished import Unfinished

_log = logging.getLogger(__name__)

#: Of the total time, what the batches may take; the rest is for showing the strongest perturbation.
_BATCHES_SHARE = 0.95
#: The attack on single images that comes before their certification.
_STEPS, _RESTARTS = 30, 2


class Batches:
    """The batches of an evaluation.

    Args:
        net: The network.
        x: (N, ...) images.
        y: (N,) labels.
        protocol: How they are evaluated.
        known: (N,) verdicts from elsewhere, as of :func:`certify`.
        saved: Keeps finished batches.
        proofs: Receives the proofs of each batch.
        bar: Shows how many images are done.

    Attributes:
        rows: The images of each batch.
        clock: Until when it works.
    """

    def __init__(
        self,
        net: BoundedNet,
        x: Tensor,
        y: Tensor,
        protocol: Protocol,
        known: Tensor | None,
        saved: Saved | None,
        proofs: ProofFolder | None,
        bar: tqdm,
    ):
        self.net, self.x, self.y, self.protocol, self.known = net, x, y, protocol, known
        self.saved, self.proofs, self.bar = saved, proofs, bar
        self.rows = _rows(len(x), protocol)
        self.clock = Clock(protocol.total_time, len(self.rows))

    def bounded(self, number: int) -> dict[str, Any]:
        """Return a batch as plain values: the one that was saved, or a new one."""
        rows = self.rows[number]
        part = None if self.saved is None else self.saved.load(number, self.x.device, from_plain)
        if part is None or (self.proofs is not None and not self.proofs.has(number)):
            part = self._new(number, rows)
        else:
            self.clock.take(part[2])
        _log.debug("images %d to %d: %.1f s", rows.start, rows.stop - 1, part[2])
        self.bar.update(rows.stop - rows.start)
        return to_plain(*part)

    def elsewhere(self, more: int) -> None:
        """Show that other processes have finished so many more batches."""
        images = more * (self.rows[0].stop - self.rows[0].start)
        self.bar.update(min(images, len(self.x) - self.bar.n))

    def _new(self, number: int, rows: slice) -> Batch:
        """Bound a batch, and keep it and its proofs."""
        torch.manual_seed(self.protocol.seed + number)
        kept = None if self.proofs is None else Proofs(self.x[rows], self.y[rows])
        with self._unfinished(number) as unfinished:
            self.clock.take(unfinished.seconds)
            with self.clock.batch(number):
                part = self._certified(rows, unfinished, kept)
        if self.proofs is not None and kept is not None:
            self.proofs.store(number, kept, rows.start, self.protocol.group_size, *part[:2])
        if self.saved is not None:
            self.saved.store(number, to_plain(*part))
        return part

    @contextmanager
    def _unfinished(self, number: int) -> Iterator[Unfinished]:
        """Yield what is known of a batch; where the work on it is stopped, keep what was added."""
        # with proofs, which are not kept on the way, a batch begins anew
        saved = self.saved if self.proofs is None else None
        known = Unfinished() if saved is None else saved.load_unfinished(number, self.x.device)
        begin = time.perf_counter()
        try:
            yield known
        except KeyboardInterrupt:
            if saved is not None:
                known.seconds += time.perf_counter() - begin
                saved.store_unfinished(number, known)
            raise

    def _certified(self, rows: slice, unfinished: Unfinished, proofs: Proofs | None) -> Batch:
        """Certify the images of a batch, alone and in groups."""
        begin, protocol = time.perf_counter(), self.protocol
        images = self.net, self.x[rows], self.y[rows], protocol.eps
        shared: dict[str, Any] = dict(
            clip=protocol.clip,
            batch_size=max(protocol.batch_size, len(images[1])),  # the last may have more
            unfinished=unfinished,
            group_size=protocol.group_size,
            time_limit=protocol.time_limit / 2,
            progress=False,
            proofs=proofs,
            norm=protocol.norm,
            arithmetic=protocol.arithmetic,
        )
        if unfinished.certificates is None:
            unfinished.certificates = certify(
                *images,
                method=protocol.method,
                attack=PGD(_STEPS, restarts=_RESTARTS, clip=protocol.clip, norm=protocol.norm),
                known=None if self.known is None else self.known[rows],
                announce=self.bar.set_description,
                **shared,
            )
        certificates = unfinished.certificates
        self.bar.set_description("groups")
        uap = certify_uap(
            *images,
            certificates=certificates,
            relational=protocol.relational,
            solver=protocol.solver,
            **shared,
        )
        return certificates, uap, unfinished.seconds + time.perf_counter() - begin


class Clock:
    """The time of a whole evaluation, and what of it each batch may take.

    Args:
        seconds: For the whole; None for no limit.
        batches: How many there are; processes that came together take them in turn.

    Attributes:
        end: When the evaluation is to end, a time of ``time.perf_counter``.
    """

    def __init__(self, seconds: float | None, batches: int):
        self.end = time.perf_counter() + (math.inf if seconds is None else seconds)
        self.batches = batches

    def batch(self, number: int) -> AbstractContextManager[None]:
        """Return the context in which a batch ends in time."""
        now = time.perf_counter()
        turns = -(-(self.batches - number) // distributed.size())
        return ending_by(now + _BATCHES_SHARE * max(0.0, self.end - now) / turns)

    def take(self, seconds: float) -> None:
        """Count the time that earlier runs have spent on a batch."""
        self.end -= seconds / distributed.size()


def _rows(count: int, protocol: Protocol) -> list[slice]:
    """Whole groups, about ``batch_size`` images at a time; a rest below a group joins the last."""
    step = max(1, protocol.batch_size // protocol.group_size) * protocol.group_size
    ends = list(range(step, count, step))
    if ends and count - ends[-1] < protocol.group_size:
        ends.pop()
    return [slice(a, b) for a, b in zip([0, *ends], [*ends, count], strict=True)]
