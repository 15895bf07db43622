"""Torch files that end in a checksum of all that stands before it.

A file is what ``torch.save`` writes, a ZIP archive, and stays one: the checksum is the archive's
comment. Files without one, of earlier versions or of the zoo, are read too, and checked as far as
the archive's own sums of its members reach.
"""

from __future__ import annotations

import hashlib
import io
import pickle  # for the name of its error  # nosec B403
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, reason
from .atomic import write_atomically
from .plain import load_plain

_MARK = b"sha256:"
_LENGTH = len(_MARK) + 2 * hashlib.sha256().digest_size
_END, _END_LENGTH = b"PK\x05\x06", 22  # of the last record of an archive without comment


def save(path: Path, content: object) -> None:
    """Write tensors, numbers, strings, lists and dicts. Raises CheckpointError."""
    buffer = io.BytesIO()  # torch.save to a file makes a RuntimeError of a signal or a full disk
    torch.save(content, buffer)
    buffer.seek(-2, io.SEEK_END)
    buffer.write(_LENGTH.to_bytes(2, "little"))  # of the comment that follows
    buffer.write(_seal(buffer.getbuffer()))
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))


def load(path: Path, device: torch.device | str = "cpu") -> Any:
    """What ``save`` wrote; nothing but tensors and plain values is unpickled.

    Raises CheckpointError for a file that is cut off or in which any byte was changed, and for
    one that is no torch file or holds more.
    """
    try:
        raw = path.read_bytes()
        _check(raw)
        return load_plain(io.BytesIO(raw), device)
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        NotImplementedError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
        AssertionError,
    ) as error:
        said = reason(error)
        if isinstance(error, pickle.UnpicklingError):  # torch's own advice is to trust the file
            said = "it holds more than tensors and plain values"
        raise CheckpointError(f"{path} is damaged or no checkpoint: {said}") from error


def _check(raw: bytes) -> None:
    """Raises BadZipFile where ``raw`` is not as it was written."""
    if raw[-_LENGTH:].startswith(_MARK):
        if raw[-_LENGTH:] != _seal(memoryview(raw)[:-_LENGTH]):
            raise zipfile.BadZipFile("its SHA-256 does not match")
        return
    end = raw[-_END_LENGTH:]
    if not end.startswith(_END) or not end.endswith(b"\0\0"):  # zeros: it never had a comment
        raise zipfile.BadZipFile("it does not end as it should")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"checksum mismatch in {damaged}")


def _seal(body: memoryview) -> bytes:
    return _MARK + hashlib.sha256(body).hexdigest().encode()
