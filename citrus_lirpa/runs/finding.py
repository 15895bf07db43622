"""The run folders that a command line names: themselves, by a folder of runs, or by a pattern."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import CheckpointError
from .folder import RunFolder


def find_runs(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Find run folders, and folders that ``eval`` made for files.

    Args:
        paths: Such folders, folders with such folders below them, or patterns such as runs/*.

    Returns:
        The folders, those below one path in the order of their names, and the paths that exist
        but hold no run. A path that names nothing, or the only ones there are, count as folders,
        for a message on what is wrong with them.

    Raises:
        CheckpointError: Nothing is of a pattern.
    """
    folders: list[Path] = []
    others: list[Path] = []
    for path in paths:
        for match in _matches(path):
            below = sorted(_below(match))
            (folders if below or not match.exists() else others).extend(below or [match])
    return (folders, others) if folders else (others, [])


def _matches(path: Path) -> list[Path]:
    """What a pattern stands for; a path that exists stands for itself."""
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    found = sorted(map(Path, glob.glob(str(path), recursive=True)))
    if not found:
        raise CheckpointError(f"nothing is called {path}; expected run folders")
    return found


def _below(folder: Path) -> Iterator[Path]:
    """The runs in a folder: itself, or those below it."""
    for name, folders, _ in os.walk(folder):
        here = RunFolder(Path(name))
        if here.config.is_file() or here.evaluated():
            yield here.path
            folders.clear()  # nothing below a run is one
