"""Torch files of tensors and plain values: the one place where anything is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor


def load_plain(file: Path | IO[bytes], device: torch.device | str = "cpu") -> Any:
    """What ``torch.save`` wrote, of dense tensors and plain values; nothing else is unpickled.

    Raises BadZipFile for what no torch.save writes and could unpack to more than it is: a
    compressed archive, overlapping members, and tensors that are sparse, without values, or
    larger than what is stored of them. Otherwise raises what torch does.
    """
    with zipfile.ZipFile(file) as archive:
        members, end = archive.infolist(), archive.start_dir
    if any(
        m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size for m in members
    ):
        raise zipfile.BadZipFile("it is compressed, which torch.save never does")
    if sum(m.file_size for m in members) > end:
        raise zipfile.BadZipFile("its members overlap")
    if not isinstance(file, Path):
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
    """The tensors in nested dicts, lists and tuples, each container visited once."""
    waiting: list[object] = [value]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)
