"""The finished batches of a long evaluation, on the disk until it ends."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.types import Split
from ..errors import CheckpointError
from ..formats import tensors
from ..formats.atomic import remove_leftovers, write_text
from .certificates import Certificates
from .groups import UapBounds

_HEADER = "settings.json"

Batch = tuple[Certificates, UapBounds, float]


def to_plain(certificates: Certificates, uap: UapBounds, seconds: float) -> dict[str, Any]:
    """A batch as tensors and plain values."""
    return {"certificates": _plain(certificates), "uap": _plain(uap), "seconds": seconds}


def from_plain(state: dict[str, Any]) -> Batch:
    return Certificates(**state["certificates"]), UapBounds(**state["uap"]), state["seconds"]


class Saved:
    """A folder of finished batches, tied to a network and to the settings of an evaluation.

    With ``resume``, what is there must be of the same settings; without it, finished batches of
    the same settings are not thrown away: else CheckpointError. (Others are thrown away.)
    ``joining``: another process of the same job has opened the folder, and may be writing to it.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], *, resume: bool, joining: bool = False
    ):
        self.folder = folder
        self._trash = folder.with_name(f".{folder.name}.removed")
        header = _header(settings)
        if joining:
            self._check(header)
            return
        if resume and folder.is_dir():
            self._check(header)
            remove_leftovers(folder, "*")
            return
        if is_saved(folder, settings) and self.count():
            raise CheckpointError(
                f"{folder} holds {self.count()} finished batches of this evaluation; continue with "
                "--resume, or remove it to begin anew"
            )
        self.discard()
        write_text(folder / _HEADER, header)

    def _check(self, header: str) -> None:
        file = self.folder / _HEADER
        try:
            found = file.read_text("utf-8")
            other = dict(json.loads(found))
        except (OSError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{self.folder} cannot be resumed: {error}; leave out --resume to begin anew"
            ) from error
        if found != header:
            mine = json.loads(header)
            differing = sorted(k for k in mine.keys() | other.keys() if mine.get(k) != other.get(k))
            raise CheckpointError(
                f"{self.folder} is of another evaluation ({', '.join(differing)} differ); repeat "
                "its settings, or leave out --resume to begin anew"
            )

    def load(self, number: int, device: torch.device) -> Batch | None:
        """A finished batch, or None."""
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            return from_plain(tensors.load(path, device))
        except (CheckpointError, KeyError, TypeError) as error:
            reason = error if isinstance(error, CheckpointError) else f"{path} is damaged: {error}"
            raise CheckpointError(f"{reason}; remove it to bound its images again") from error

    def store(
        self, number: int, certificates: Certificates, uap: UapBounds, seconds: float
    ) -> None:
        tensors.save(self._path(number), to_plain(certificates, uap, seconds))

    def count(self) -> int:
        """Batches on the disk."""
        return len(list(self.folder.glob("*.pt")))

    def discard(self) -> None:
        """Remove the folder, as when the evaluation is complete: it is there whole or not at
        all, though a kill may leave what was in it under another name until the next time."""
        if self._trash.is_dir():
            shutil.rmtree(self._trash)
        if self.folder.is_dir():
            os.replace(self.folder, self._trash)
            shutil.rmtree(self._trash)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.pt"


def is_saved(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether ``folder`` is of this very evaluation, with or without finished batches."""
    file = folder / _HEADER
    return file.is_file() and file.read_bytes() == _header(settings).encode()


def identity(settings: dict[str, Any]) -> str:
    """SHA-256 of the settings of an evaluation, to know its results by."""
    return hashlib.sha256(_header(settings).encode()).hexdigest()


def results_of(file: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The record in ``file``, if it is there, readable, and of these very settings."""
    try:
        record = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    mine = isinstance(record, dict) and record.get("identity") == identity(settings)
    return record if mine else None


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a module's layers as they print themselves, and of its parameters and buffers."""
    digest = hashlib.sha256(repr(model).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        _add(digest, value)
    return digest.hexdigest()


def fingerprint_of_images(images: Split) -> str:
    """SHA-256 of all pixels and labels."""
    digest = hashlib.sha256()
    for values in (images.images, images.labels):
        _add(digest, values)
    return digest.hexdigest()


def _add(digest: Any, value: Tensor) -> None:
    digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
    digest.update(value.detach().cpu().contiguous().numpy().tobytes())


def _header(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=2, sort_keys=True, default=str) + "\n"


def _plain(value: Certificates | UapBounds) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}
