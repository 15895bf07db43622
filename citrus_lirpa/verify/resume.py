"""The batches of a long evaluation, and what is known of the one in hand, until it ends."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..errors import CheckpointError, differences
from ..formats import tensors
from ..formats.atomic import remove_leftovers, write_text
from .certificates import Certificates
from .groups import UapBounds
from .identity import identity_of_text, settings_text
from .unfinished import Unfinished

_HEADER = "settings.json"
#: The suffix of what is known of a batch that was stopped.
_UNFINISHED = ".unfinished"

Result = TypeVar("Result")
Batch = tuple[Certificates, UapBounds, float]


def to_plain(certificates: Certificates, uap: UapBounds, seconds: float) -> dict[str, Any]:
    """Return a batch as tensors and plain values."""
    return {"certificates": _plain(certificates), "uap": _plain(uap), "seconds": seconds}


def from_plain(state: dict[str, Any]) -> Batch:
    """Make a batch of what ``to_plain`` gave."""
    return Certificates(**state["certificates"]), UapBounds(**state["uap"]), state["seconds"]


class Saved:
    """A folder of finished batches, tied to a network and to the settings of an evaluation.

    Args:
        folder: The folder.
        settings: All that the results depend on.
        resume: Whether to continue: what is in the folder must be of the same settings. Otherwise
            batches of the same settings are refused, and others are removed.
        joining: Whether another process of the same job has opened the folder, and may write to
            it.

    Raises:
        CheckpointError: The folder holds what is not to be continued, or to be removed.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], *, resume: bool, joining: bool = False
    ):
        self.folder = folder
        self._trash = folder.with_name(f".{folder.name}.removed")
        header = settings_text(settings)
        if joining:
            self._check(header)
            return
        if resume and folder.is_dir():
            self._check(header)
            remove_leftovers(folder, "*")
            return
        if is_saved(folder, settings) and (self.count() or self.holds_unfinished()):
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
            raise CheckpointError(
                f"{self.folder} is of another evaluation ({differences(other, mine)}); repeat "
                "its settings, or leave out --resume to begin anew"
            )

    def load(
        self, number: int, device: torch.device, read: Callable[[dict[str, Any]], Result]
    ) -> Result | None:
        """Read a finished batch; None where there is none.

        Args:
            number: Of the batch.
            device: Where its tensors are put.
            read: Makes the batch of the plain values that were stored; KeyError or TypeError
                where they are of something else.

        Raises:
            CheckpointError: It is damaged.
        """
        path = self._path(number)
        return self._read(path, device, read) if path.is_file() else None

    def _read(
        self, path: Path, device: torch.device, read: Callable[[dict[str, Any]], Result]
    ) -> Result:
        try:
            return read(tensors.load(path, device))
        except (CheckpointError, KeyError, TypeError) as error:
            reason = error if isinstance(error, CheckpointError) else f"{path} is damaged: {error}"
            raise CheckpointError(f"{reason}; remove it to bound its images again") from error

    def store(self, number: int, batch: dict[str, Any]) -> None:
        """Write a finished batch as plain values."""
        tensors.save(self._path(number), batch)
        self._path(number).with_suffix(_UNFINISHED).unlink(missing_ok=True)

    def load_unfinished(self, number: int, device: torch.device) -> Unfinished:
        """Read what is known of a batch that was stopped; nothing where it was not begun."""
        path = self._path(number).with_suffix(_UNFINISHED)
        if not path.is_file():
            return Unfinished()
        return self._read(path, device, Unfinished.from_plain)

    def store_unfinished(self, number: int, batch: Unfinished) -> None:
        """Write what is known of a batch that is stopped."""
        tensors.save(self._path(number).with_suffix(_UNFINISHED), batch.to_plain())

    def holds_unfinished(self) -> bool:
        """Return whether something is known of a batch that was stopped."""
        return any(self.folder.glob(f"*{_UNFINISHED}"))

    def count(self) -> int:
        """Count the batches on disk."""
        return len(list(self.folder.glob("*.pt")))

    def discard(self) -> None:
        """Remove the folder, as when the evaluation is complete.

        It is there whole or not at all: a kill may leave its batches under another name, which
        are removed the next time.
        """
        if self._trash.is_dir():
            shutil.rmtree(self._trash)
        if self.folder.is_dir():
            os.replace(self.folder, self._trash)
            shutil.rmtree(self._trash)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.pt"


def is_saved(folder: Path, settings: dict[str, Any]) -> bool:
    """Return whether a folder is of this very evaluation, with or without finished batches."""
    file = folder / _HEADER
    return file.is_file() and file.read_bytes() == settings_text(settings).encode()


def saved_identity(folder: Path) -> str | None:
    """Return the identity of the evaluation that a folder is of; None where it is of none."""
    file = folder / _HEADER
    return identity_of_text(file.read_bytes()) if file.is_file() else None


def _plain(value: Certificates | UapBounds) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}
