"""Trained networks that ship with the package: ``zoo:NAME`` wherever a run is expected."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, InputError, unknown

PREFIX = "zoo:"
#: Sums of all files, by name of the network: SHA-256 of NAME.pt, a checkpoint of weights alone.
INDEX = "index.json"


def is_name(path: Path) -> bool:
    """Whether ``path`` names a network of the zoo and no file."""
    return str(path).startswith(PREFIX)


def names() -> list[str]:
    return sorted(_index())


def find(path: Path) -> Path:
    """The checkpoint of ``zoo:NAME``, its checksum compared.

    Raises InputError for an unknown name, CheckpointError for a file that was changed.
    """
    name = str(path).removeprefix(PREFIX)
    index = _index()
    if name not in index:
        raise InputError(unknown("network of the zoo", name, index))
    file = _folder() / f"{name}.pt"
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != index[name]:
        raise CheckpointError(f"{file} is missing or damaged; install citrus-lirpa again")
    return file


def evaluation(name: str) -> dict[str, Any]:
    """What ``citrus-lirpa eval`` said of a network on the whole test set."""
    return json.loads((_folder() / f"{name}.json").read_text("utf-8"))


def _folder() -> Path:
    return Path(str(resources.files(__package__) / "zoo_files"))


def _index() -> dict[str, str]:
    return json.loads((_folder() / INDEX).read_text("utf-8"))
