"""Files with the ε of every pixel, channel or feature."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, require


def read_eps_map(path: Path, shape: tuple[int, ...] | None = None, sha256: str = "") -> Tensor:
    """Read the ε of every pixel, zero where nothing moves.

    Args:
        path: An ``.npy`` file of numbers from 0 to 1, of a shape that broadcasts to ``shape``:
            (C, H, W), (C, 1, 1) with one for each channel, (H, W) for all channels alike, or (d,)
            for a table.
        shape: The shape of an image, (C, H, W); None to leave the map as it is.
        sha256: What the file's hash must be; empty for anything.

    Returns:
        The map in float64, of this shape.

    Raises:
        InputError: The file is not there, is no such map, or has changed.
    """
    content = _read(path)
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        fix = "write it by numpy.save"
        raise InputError(f"{path} is not an .npy file of numbers; {fix}") from error
    changed = f"{path} has changed since the run was made; restore it, or give --eps-map FILE"
    require(not sha256 or _hash(content) == sha256, changed)
    numbers = isinstance(found, np.ndarray) and found.dtype.kind in "fiu" and found.size > 0
    require(numbers, f"{path} holds no numbers; expected the ε of each pixel")
    values = torch.from_numpy(found.astype(np.float64))
    low, high = float(values.min()), float(values.max())  # NaN where one is
    require(
        0 <= low <= high <= 1,
        f"{path} holds ε from {low:g} to {high:g}; expected finite numbers from 0 to 1, in pixels, "
        "such as 8/255",
    )
    return values if shape is None else _shaped(values, shape, path)


def eps_map_hash(path: Path) -> str:
    """Return the SHA-256 of a file; raise InputError where it cannot be read."""
    return _hash(_read(path))


def _read(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); expected FILE.npy") from error


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _shaped(values: Tensor, shape: tuple[int, ...], path: Path) -> Tensor:
    table = shape[:2] == (1, 1)
    pairs = zip(reversed(values.shape), reversed(shape), strict=False)
    fits = values.ndim <= len(shape) and all(a in (1, b) for a, b in pairs)
    wanted = f"({shape[2]},)" if table else f"{shape}, ({shape[0]}, 1, 1) or {shape[1:]}"
    require(
        fits and (values.ndim != 1 or len(values) == 1 or table),
        f"{path} has shape {tuple(values.shape)}; expected {wanted}: the ε of each "
        f"{'feature' if table else 'pixel or channel'}",
    )
    return values.expand(shape).contiguous()
