"""Ctrl-C and SIGTERM as requests, so that the step in hand is finished and saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

from ..errors import Interrupted, Terminated

_Handler = Callable[[int, FrameType | None], object] | int | None
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Termination(KeyboardInterrupt):
    """SIGTERM, raised as Ctrl-C is."""


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """A function that gives the signal of Ctrl-C or SIGTERM once one came, and 0 before; the
    step in hand is finished."""
    requests: list[int] = []
    if not _in_main_thread():
        yield lambda: 0
        return

    def handle(number: int, _frame: object) -> None:
        if number == signal.SIGINT and signal.SIGINT in requests:
            raise KeyboardInterrupt  # a second Ctrl-C stops at once
        requests.append(number)

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield lambda: requests[0] if requests else 0
    finally:
        _restore(before)


@contextlib.contextmanager
def terminations() -> Iterator[None]:
    """SIGTERM raises Termination inside the block; what comes behind it is ignored."""
    if not _in_main_thread():
        yield
        return

    def handle(_number: int, _frame: object) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise Termination

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        _restore(before)


def interrupted_by(number: int, message: str) -> Interrupted:
    """The error of work that a signal stopped, and which was saved."""
    return (Terminated if number == signal.SIGTERM else Interrupted)(message)


def _in_main_thread() -> bool:
    """Only it may handle signals."""
    return threading.current_thread() is threading.main_thread()


def _restore(handlers: Mapping[signal.Signals, _Handler]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
