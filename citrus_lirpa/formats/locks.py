"""One process at a time for a piece of work in a folder."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import CheckpointError
from .atomic import is_leftover, make_folder

_SUFFIX = ".lock"
#: Of file systems that know no locks.
_UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(folder: Path, work: str) -> Iterator[None]:
    """Do ``work`` (as train) in ``folder``, which is made, as the only process that does it.

    The lock ends with the process, however that ends, and is not inherited by processes that it
    starts. Where the file system knows no locks, a warning says so. Raises CheckpointError, with
    the id of the other process, where there is one, and where nothing can be written.
    """
    path = folder / f".{work}{_SUFFIX}"
    file = _take(path, work)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a free lock that stays behind does no harm
            path.unlink()
        file.close()


def is_vacant(folder: Path) -> bool:
    """Whether nothing stands in ``folder`` but locks and what a killed start left."""
    if not folder.is_dir():
        return not folder.exists()
    return all(is_leftover(path) or _is_lock(path) for path in folder.iterdir())


def _is_lock(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == _SUFFIX


def _take(path: Path, work: str) -> IO[str]:
    """The lock file, locked; it names this process."""
    while True:
        try:
            make_folder(path.parent)
            file = open(path, "a+", encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write {path.parent}: {error}") from error
        if not _lock(file):
            file.seek(0)
            other = file.read().strip() or "another process"
            file.close()
            raise CheckpointError(
                f"{path.parent} is in use by {other} ({work}); wait until it ends, or choose "
                "another folder"
            )
        if _is_at(path, file):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            return file
        file.close()  # its owner removed it in between


def _lock(file: IO[str]) -> bool:
    """Lock ``file``; False where another process has it."""
    if os.name == "nt":  # no such locks there
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise CheckpointError(f"cannot lock {file.name}: {error}") from error
        warnings.warn(
            f"{file.name} cannot be locked ({error}): see that nothing else uses its folder",
            stacklevel=2,
        )
    return True


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
