"""The time by which a computation is to end, for all that it calls.

Whoever has a time limit sets a deadline around a block. The loops inside, of attacks, bounds and
searches, look at it after each step and end with what they have: weaker bounds, never wrong ones.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from contextvars import ContextVar

from ..errors import OutOfTime

_DEADLINE: ContextVar[float] = ContextVar("deadline", default=math.inf)


@contextlib.contextmanager
def ending_by(when: float) -> Iterator[None]:
    """Set a deadline (of ``time.perf_counter``) inside the block, unless an earlier one is set."""
    token = _DEADLINE.set(min(when, _DEADLINE.get()))
    try:
        yield
    finally:
        _DEADLINE.reset(token)


@contextlib.contextmanager
def without_deadline() -> Iterator[None]:
    """Lift the deadline inside the block, for checks that must be complete."""
    token = _DEADLINE.set(math.inf)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def deadline() -> float:
    """Return the deadline, a time of ``time.perf_counter``; infinity where there is none."""
    return _DEADLINE.get()


def time_left() -> float:
    """Return the seconds until the deadline, at least 0; infinity where there is none."""
    return max(0.0, _DEADLINE.get() - time.perf_counter())


def time_is_over() -> bool:
    """Return whether the deadline has passed."""
    return time.perf_counter() > _DEADLINE.get()


def check_time() -> None:
    """Raise OutOfTime where the deadline has passed."""
    if time_is_over():
        raise OutOfTime("the time limit of this computation is over")
