"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import CheckpointError, without_path

_log = logging.getLogger(__name__)

_SUFFIX = ".tmp"  # of a file that is still being written; its name begins with a dot
#: Errors of network file systems that cannot sync a folder, and of folders that cannot be read.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a temporary file, and move it to ``path`` once it is on the disk.

    A crash, a full disk, a power cut or a kill leaves the earlier file whole. A kill also leaves
    the temporary file, for ``remove_leftovers``.

    Args:
        path: The file; its folder is made.
        write: Writes the content to the open file that it gets.

    Raises:
        CheckpointError: The file cannot be written.
    """
    temporary = None
    try:
        make_folder(path.parent)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=_SUFFIX, delete=False
        ) as file:
            temporary = Path(file.name)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _log.debug("wrote %s", path)
    except OSError as error:
        kept = "; the earlier file is kept" if path.exists() else ""
        raise CheckpointError(f"cannot write {path}: {without_path(error)}{kept}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write bytes as ``write_atomically`` does."""
    write_atomically(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 as ``write_atomically`` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values as JSON, as ``write_atomically`` does."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def make_folder(folder: Path) -> None:
    """Make a folder, which may exist, and those above it, so that they outlast a power cut."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def remove_leftovers(folder: Path, *names: str) -> None:
    """Remove the temporary files of killed writers of these names, or patterns such as ``*``.

    The caller must be the only one that writes these files, as under a lock.
    """
    for name in names:
        for file in folder.glob(f".{name}.*{_SUFFIX}"):
            file.unlink(missing_ok=True)


def set_aside(*paths: Path) -> Path | None:
    """Move earlier results into the first folder ``earlier-N`` that does not exist.

    The paths are in one folder; those that do not exist are left out. Return the new folder, None
    where none exists.

    Raises:
        CheckpointError: They cannot be moved.
    """
    there = [path for path in paths if path.exists()]
    if not there:
        return None
    above = there[0].parent
    number = 1
    while (aside := above / f"earlier-{number}").exists():
        number += 1
    try:
        make_folder(aside)
        for path in there:
            os.replace(path, aside / path.name)
    except OSError as error:
        raise CheckpointError(
            f"cannot move {above}'s earlier results: {without_path(error)}"
        ) from error
    _sync_folder(aside)
    _sync_folder(above)
    return aside


def is_leftover(path: Path) -> bool:
    """Return whether ``path`` is a temporary file of a writer that was killed or still writes."""
    return path.name.startswith(".") and path.suffix == _SUFFIX


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk; otherwise a power cut may undo a move."""
    if os.name == "nt":  # folders cannot be opened there
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise CheckpointError(f"cannot write {folder}: {without_path(error)}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
