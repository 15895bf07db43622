"""The finished batches of a long evaluation, on the disk until it ends."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError
from ..files import write_atomically, write_text
from ..plain import load_plain
from .certificates import Certificates
from .uap import UapBounds

_HEADER = "settings.json"

Batch = tuple[Certificates, UapBounds, float]


class Saved:
    """A folder of finished batches, tied to a network and to the settings of an evaluation.

    Without ``resume``, batches of an earlier evaluation are removed; with it, they must be
    of the same settings, else CheckpointError.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], *, resume: bool):
        self.folder = folder
        header = json.dumps(settings, indent=2, sort_keys=True, default=str) + "\n"
        if resume and folder.is_dir():
            self._check(settings, header)
            return
        self.discard()
        write_text(folder / _HEADER, header)

    def _check(self, settings: dict[str, Any], header: str) -> None:
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
            state = load_plain(path, device)
            certificates = Certificates(**state["certificates"])
            return certificates, UapBounds(**state["uap"]), state["seconds"]
        except Exception as error:
            raise CheckpointError(
                f"{path} is damaged: {' '.join(str(error).split())[:160]}; remove it to bound "
                "its images again"
            ) from error

    def store(
        self, number: int, certificates: Certificates, uap: UapBounds, seconds: float
    ) -> None:
        state = {"certificates": _plain(certificates), "uap": _plain(uap), "seconds": seconds}
        write_atomically(self._path(number), lambda file: torch.save(state, file))

    def count(self) -> int:
        """Batches on the disk."""
        return len(list(self.folder.glob("*.pt")))

    def discard(self) -> None:
        """Remove the folder, as when the evaluation is complete."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.pt"


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _plain(value: Certificates | UapBounds) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}
