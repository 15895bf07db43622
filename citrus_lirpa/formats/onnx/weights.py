"""Weights that an ONNX file keeps in other files: read from its own folder, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError, require
from .graph import tensors_of

if TYPE_CHECKING:
    import onnx


def take_in(proto: onnx.ModelProto, path: Path, most: int) -> None:
    """Read the weights that a model keeps beside its file into the model, ``most`` bytes at most.

    Raises:
        InputError: A weight is not where the model says, is in another folder, or all together
            are too large.
    """
    left = most
    for tensor in tensors_of(proto.graph):
        if not (tensor.external_data or tensor.data_location):
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = _beside(path, entries.get("location", ""))
        begin = _count(path, entries.get("offset", "0"))
        length = _count(path, entries.get("length", str(file.stat().st_size - begin)))
        left -= length
        require(left >= 0, f"{path} and the weights beside it are larger than {most} bytes")
        with file.open("rb") as opened:
            opened.seek(begin)
            data = opened.read(length)
        require(len(data) == length, f"{file} is shorter than {path} says; export it again")
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = data


def _beside(path: Path, name: str) -> Path:
    """Return the file of a name in the model's folder; a name that leads elsewhere is refused."""
    file = path.parent / name
    plain = name and "\\" not in name and Path(name).name == name and not file.is_symlink()
    require(
        plain,
        f"{path} keeps weights in {name[:80]!r}; they are read from a file of its own folder only, "
        "which is no link: save it as one file: onnx.save(onnx.load(FILE), FILE)",
    )
    if not file.is_file():
        raise InputError(f"{path} keeps its weights in {name[:80]}, which is not beside it")
    return file


def _count(path: Path, text: str) -> int:
    usable = text.isascii() and text.isdecimal() and len(text) < 16
    require(usable, f"{path} says that its weights begin or end at {text[:40]!r}; export it again")
    return int(text)
