"""A network's weights and configuration as one safetensors file, which holds no code.

The metadata holds the configuration and the SHA-256 of the weights, so that such a file can be
evaluated like a checkpoint.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType

from torch import Tensor, uint8

from ..errors import CheckpointError
from ..imports import import_optional
from .atomic import write_bytes

SUFFIX = ".safetensors"
FORMAT = "citrus-lirpa weights 1"
_KEYS = ("citrus-lirpa", "config", "sha256")


def save(path: Path, config: str, weights: dict[str, Tensor]) -> None:
    """Write the weights of a network, by name, and its run's configuration in TOML.

    The file appears once it is whole.
    """
    package = _package()
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    values = (FORMAT, config, _digest(weights))
    metadata = {"format": "pt", **dict(zip(_KEYS, values, strict=True))}
    write_bytes(Path(path), package.torch.save(weights, metadata))


def load(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Read what ``save`` wrote: the configuration as TOML, and the tensors by name, on the CPU.

    Raises:
        CheckpointError: The file is damaged, or another program wrote it.
    """
    metadata, weights = _read(path)
    found, config, digest = (metadata.get(key) for key in _KEYS)
    if found != FORMAT or config is None:
        raise CheckpointError(
            f"{path} holds weights but no configuration (format {found!r}, expected '{FORMAT}'); "
            "write it with: citrus-lirpa export RUN --out FILE.safetensors"
        )
    if digest != _digest(weights):
        raise CheckpointError(f"{path} is damaged: the checksum of its weights does not match")
    return config, weights


def tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file that any program wrote, by name, on the CPU."""
    return _read(path)[1]


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    package = _package()
    try:
        with package.safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    except (package.SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error


def _digest(weights: dict[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().reshape(-1).view(uint8).numpy().tobytes())
    return digest.hexdigest()


def _package() -> ModuleType:
    fix = "pip install 'citrus-lirpa[safetensors]'"
    import_optional("safetensors.torch", fix)
    return import_optional("safetensors", fix)
