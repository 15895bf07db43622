"""Torch files of tensors and plain values that end in a checksum of all bytes before it.

A file is what ``torch.save`` writes, a ZIP archive; the checksum is the archive's comment. Files
without a checksum, from earlier versions or from others, are read too, and checked as far as the
archive's own checksums of its members reach. This is the only module that unpickles anything.
"""

from __future__ import annotations

import hashlib
import io
import pickle  # for the name of its error  # nosec B403
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, is_out_of_memory, reason
from .atomic import write_bytes

_MARK = b"sha256:"
_LENGTH = len(_MARK) + 2 * hashlib.sha256().digest_size
_END, _END_LENGTH = b"PK\x05\x06", 22  # of the last record of an archive without a comment


def save(path: Path, content: object) -> None:
    """Write tensors, numbers, strings, lists and dicts; the file appears once it is whole."""
    buffer = io.BytesIO()  # torch.save to a file makes a RuntimeError of a signal or a full disk
    torch.save(content, buffer)
    buffer.seek(-2, io.SEEK_END)
    buffer.write(_LENGTH.to_bytes(2, "little"))  # of the comment that follows
    buffer.write(_checksum(buffer.getbuffer()))
    write_bytes(path, buffer.getbuffer())


def load(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read what ``save`` wrote, onto a device; only tensors and plain values are unpickled.

    Raises:
        CheckpointError: The file is cut off, any of its bytes was changed, it is no torch file,
            or it holds more than tensors and plain values.
    """
    try:
        raw = path.read_bytes()
        _check_bytes(raw)
        content = _unpickle(raw, device)
    except Exception as error:  # torch raises a dozen classes for files that others wrote
        if is_out_of_memory(error):
            raise
        why = reason(error)
        if isinstance(error, pickle.UnpicklingError):  # torch's own advice is to trust the file
            why = "it holds more than tensors and plain values"
        raise CheckpointError(f"{path} is damaged or no checkpoint: {why}") from error
    return content


def _check_bytes(raw: bytes) -> None:
    """Raise BadZipFile where ``raw`` is not as it was written."""
    if raw[-_LENGTH:].startswith(_MARK):
        if raw[-_LENGTH:] != _checksum(memoryview(raw)[:-_LENGTH]):
            raise zipfile.BadZipFile("its SHA-256 does not match")
        return
    end = raw[-_END_LENGTH:]
    if not end.startswith(_END) or not end.endswith(b"\0\0"):  # zeros: it never had a comment
        raise zipfile.BadZipFile("it does not end as it should")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"checksum mismatch in {damaged}")


def _checksum(body: memoryview) -> bytes:
    return _MARK + hashlib.sha256(body).hexdigest().encode()


def _unpickle(raw: bytes, device: torch.device | str) -> Any:
    """Return the content of an archive of dense tensors and plain values.

    Raises BadZipFile for what no ``torch.save`` writes and could unpack to more than it is: a
    compressed archive, overlapping members, and tensors that are sparse, without values, or
    larger than what is stored of them.
    """
    file = io.BytesIO(raw)
    with zipfile.ZipFile(file) as archive:
        members, end = archive.infolist(), archive.start_dir
    if any(
        m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size for m in members
    ):
        raise zipfile.BadZipFile("it is compressed, which torch.save never does")
    if sum(m.file_size for m in members) > end:
        raise zipfile.BadZipFile("its members overlap")
    file.seek(0)
    with torch.sparse.check_sparse_tensor_invariants():
        content = torch.load(file, map_location=device, weights_only=True)
    for tensor in _tensors(content):
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise zipfile.BadZipFile(f"it holds a tensor that is {tensor.layout}, or has no values")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise zipfile.BadZipFile("it holds a tensor larger than what is stored of it")
    return content


def _tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested dicts, lists and tuples, visiting each container once."""
    waiting: list[object] = [value]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)
