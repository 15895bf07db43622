"""The journal file of a study, guarded against half lines of workers that were killed."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from ...formats.locks import in_turn


class JournalLock:
    """Lets one worker after the other write into a journal file, each from a new line.

    A worker that was killed, or a full disk, may leave half a line. Optuna would append the next
    record to it, and nobody could load the study again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = contextlib.ExitStack()

    def acquire(self) -> bool:
        """Wait for the lock, and leave whole lines alone in the file."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(in_turn(self._path.with_name(f".{self._path.name}.lock")))
            _cut_half_line(self._path)
            self._held = stack.pop_all()
        return True

    def release(self) -> None:
        """Let the next worker in."""
        self._held.close()


def _cut_half_line(path: Path) -> None:
    with open(path, "r+b") as file:
        size = file.seek(0, 2)
        if not size:
            return
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def check_last_line(path: Path) -> None:
    """Raise ValueError where a file ends in a line that is no record; Optuna would pass over it."""
    if path.exists():
        *lines, _ = path.read_bytes().split(b"\n")
        if lines and "op_code" not in dict(json.loads(lines[-1])):
            raise ValueError("its last line is no record")
