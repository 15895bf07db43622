"""Ctrl-C, SIGTERM and SIGUSR1 as requests, so that the current step is finished and saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

from ..errors import Interrupted, Terminated

_Handler = Callable[[int, FrameType | None], object] | int | None
#: SIGUSR1 is what `sbatch --signal=B:USR1@60` sends a minute before the time limit.
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
#: What a command says that continues by itself where it was stopped.
REPEAT = "interrupted; all is saved: repeat the command to continue"


class Termination(KeyboardInterrupt):
    """SIGTERM or SIGUSR1 as an exception, as Ctrl-C is one."""


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Take Ctrl-C, SIGTERM and SIGUSR1 as requests to stop inside the block.

    A second Ctrl-C stops at once. Outside the main thread nothing changes.

    Yields:
        A function that returns the number of the first signal, and 0 before it.
    """
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
    """Raise Termination at SIGTERM or SIGUSR1 inside the block, and ignore all signals after it.

    Outside the main thread nothing changes.
    """
    if not _in_main_thread():
        yield
        return

    def handle(_number: int, _frame: object) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise Termination

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS[1:]:
        signal.signal(number, handle)
    try:
        yield
    finally:
        _restore(before)


def interrupted_by(number: int, message: str) -> Interrupted:
    """Make the error of work that a signal stopped and that was saved."""
    error = (Interrupted if number == signal.SIGINT else Terminated)(message)
    error.number = number
    return error


def _in_main_thread() -> bool:
    """Tell whether this thread may handle signals."""
    return threading.current_thread() is threading.main_thread()


def _restore(handlers: Mapping[signal.Signals, _Handler]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
