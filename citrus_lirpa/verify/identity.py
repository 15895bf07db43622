"""What identifies an evaluation: its settings, the weights of its network, and its images."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..data.types import Split


def identity(settings: dict[str, Any]) -> str:
    """Return the SHA-256 of the settings of an evaluation, by which its results are known."""
    return identity_of_text(settings_text(settings).encode())


def identity_of_text(text: bytes) -> str:
    """Return the same of what ``settings_text`` gave, encoded."""
    return hashlib.sha256(text).hexdigest()


def settings_text(settings: dict[str, Any]) -> str:
    """Return settings as JSON that is the same for the same settings."""
    return json.dumps(settings, indent=2, sort_keys=True, default=str) + "\n"


def results_of(file: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record in ``file`` if it is there, readable, and of these very settings."""
    record = _record(file)
    return record if record.get("identity") == identity(settings) else None


def identity_of(file: Path) -> str | None:
    """Return what evaluation the record in ``file`` is of; None where that cannot be read."""
    return _record(file).get("identity")


def _record(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of a network: its layers as they print, its parameters and buffers."""
    digest = hashlib.sha256(repr(model).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        _add(digest, value)
    return digest.hexdigest()


def fingerprint_of_images(images: Split) -> str:
    """Return the SHA-256 of all pixels and labels."""
    digest = hashlib.sha256()
    for values in (images.images, images.labels):
        _add(digest, values)
    return digest.hexdigest()


def subjects(model: nn.Module, x: Tensor, y: Tensor) -> tuple[str, ...]:
    """Return a hash of each input (N, ...), its label and the network."""
    network = bytes.fromhex(fingerprint(model))
    found = []
    for pixels, label in zip(x.detach().cpu(), y.tolist(), strict=True):
        digest = hashlib.sha256(network)
        _add(digest, pixels)
        digest.update(str(label).encode())
        found.append(digest.hexdigest())
    return tuple(found)


def _add(digest: Any, value: Tensor) -> None:
    digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
    digest.update(value.detach().cpu().contiguous().numpy().tobytes())
