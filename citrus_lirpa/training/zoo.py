"""Trained networks that ship with the package: ``zoo:NAME`` wherever a run is expected."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, InputError, expect_known

PREFIX = "zoo:"
#: Holds NAME.pt, a checkpoint of weights alone, and NAME.json, its evaluation, for each network.
FOLDER = Path(__file__).with_name("zoo_files")
#: The SHA-256 sum of NAME.pt, by name of the network.
INDEX = "index.json"


def is_name(path: Path) -> bool:
    """Tell whether ``path`` names a network of the zoo, and no file."""
    return str(path).startswith(PREFIX)


def names() -> list[str]:
    """List the networks."""
    return sorted(_index())


def find(path: Path) -> Path:
    """Find the checkpoint of a network, and compare its checksum.

    Args:
        path: ``zoo:NAME``.

    Raises:
        InputError: There is no such network.
        CheckpointError: The file was changed.
    """
    name = str(path).removeprefix(PREFIX)
    index = _index()
    expect_known("network of the zoo", name, index, InputError)
    file = FOLDER / f"{name}.pt"
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != index[name]:
        raise CheckpointError(f"{file} is missing or damaged; install citrus-lirpa again")
    return file


def evaluation(name: str) -> dict[str, Any]:
    """Return the record of ``citrus-lirpa eval`` on the whole test set."""
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def _index() -> dict[str, str]:
    return json.loads((FOLDER / INDEX).read_text("utf-8"))
