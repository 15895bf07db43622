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

from filelock import lock_descriptor

from ..errors import CheckpointError, without_path
from .atomic import is_leftover, make_folder

_SUFFIX = ".lock"
#: Errors of file systems that have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
#: Where the name of the holder begins: on Windows nobody else can read the byte that is locked.
_HOLDER_AT = 1


@contextlib.contextmanager
def locked(folder: Path, work: str) -> Iterator[None]:
    """Do a piece of work in a folder, which is made, as the only process that does it.

    The lock ends with the process, however that ends, and is not inherited by the processes that
    it starts. A file system without locks is a warning.

    Raises:
        CheckpointError: Another process does this work here, and the message names it; or the
            folder cannot be written.
    """
    path = folder / f".{work}{_SUFFIX}"
    file = _take(path, work)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a file that stays behind unlocked does no harm
            path.unlink()
        file.close()


def try_lock(file: IO[bytes]) -> bool:
    """Lock a file that is open for writing until it is closed, also by processes that inherit it.

    Return False where another process has locked it. Where the file system has no locks, warn and
    return True.

    Raises:
        CheckpointError: The file cannot be locked.
    """
    try:
        return lock_descriptor(file.fileno(), blocking=False)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise CheckpointError(f"cannot lock {file.name}: {error}") from error
        warnings.warn(
            f"{file.name} cannot be locked ({error}): see that nothing else uses its folder",
            stacklevel=2,
        )
        return True


def try_claim(folder: Path, work: str) -> IO[bytes] | None:
    """Claim a piece of work in a folder, which is made, until the file that is returned is closed.

    Return None where another process has claimed it.
    """
    file = _opened(folder / f".{work}{_SUFFIX}")
    if try_lock(file):
        return file
    file.close()
    return None


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Wait until no other process is inside a block with this lock file, then enter it.

    The file stays behind.

    Raises:
        CheckpointError: The file cannot be locked, on file systems that have locks.
    """
    with _opened(path) as file:
        try:
            lock_descriptor(file.fileno(), blocking=True)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise CheckpointError(f"cannot lock {path}: {error}") from error
            try_lock(file)  # which warns
        yield


def is_vacant(folder: Path) -> bool:
    """Return whether ``folder`` holds nothing but locks and what a killed start left."""
    if not folder.is_dir():
        return not folder.exists()
    return all(is_leftover(path) or _is_lock(path) for path in folder.iterdir())


def _is_lock(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == _SUFFIX


def _take(path: Path, work: str) -> IO[bytes]:
    """Return the lock file, locked, with the name of this process in it."""
    while True:
        file = _opened(path)
        if not try_lock(file):
            file.seek(_HOLDER_AT)
            holder = file.read().decode().strip() or "another process"
            file.close()
            raise CheckpointError(
                f"{path.parent} is in use by {holder} ({work}); wait until it ends, or choose "
                "another folder"
            )
        if _is_at(path, file):
            file.truncate(0)
            file.write(f"\nprocess {os.getpid()} on {socket.gethostname()}\n".encode())
            return file
        file.close()  # its owner removed it after it was opened here


def _opened(path: Path) -> IO[bytes]:
    try:
        make_folder(path.parent)
        return open(path, "a+b", buffering=0)
    except OSError as error:
        raise CheckpointError(f"cannot write {path.parent}: {without_path(error)}") from error


def _is_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
