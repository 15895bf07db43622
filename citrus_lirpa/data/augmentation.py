"""Crops, flips, and the batches of an epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import require
from .types import DatasetSpec


def augment(x: Tensor, spec: DatasetSpec, generator: torch.Generator) -> Tensor:
    """Crop each image at random after edge padding, then flip half of them.

    Every shift of the crop within the padded image is equally likely. Where the spec has neither
    flip nor crop, ``x`` itself is returned and nothing is drawn.

    Args:
        x: Images (B, C, H0, W0).
        spec: The data set; its shape is (C, H, W).
        generator: The source of randomness, on any device.

    Raises:
        InputError: A padded image is smaller than (H, W).
    """
    draws = draw_augmentation(x.shape, spec, generator)
    return x if draws is None else augment_as(x, spec, draws.to(x.device))


def draw_augmentation(
    shape: torch.Size, spec: DatasetSpec, generator: torch.Generator
) -> Tensor | None:
    """Draw what ``augment`` does with images of a shape (B, C, H0, W0).

    Returns:
        Of each image the first row and column of its crop and whether it is flipped, int64
        (3, B) on the generator's device; None where the spec has neither flip nor crop.
    """
    spare = _spare(shape, spec, spec.pad)
    if not (spec.flip or any(spare)):
        return None
    choices = [number + 1 for number in spare] + [2] * spec.flip
    options: dict[str, Any] = {"generator": generator, "device": generator.device}
    draws = [torch.randint(choice, (shape[0],), **options) for choice in choices]
    return torch.stack(draws if spec.flip else [*draws, torch.zeros_like(draws[0])])


def augment_as(x: Tensor, spec: DatasetSpec, draws: Tensor) -> Tensor:
    """Augment images (B, C, H0, W0) as ``draw_augmentation`` drew (3, B), on their device."""
    height, width = spec.shape[1:]
    top, left, flipped = draws.unsqueeze(2)
    # Clamping the coordinates repeats the edge pixels, so nothing is ever padded.
    rows = top - spec.pad + torch.arange(height, device=x.device)
    columns = left - spec.pad + torch.arange(width, device=x.device)
    rows, columns = rows.clamp(0, x.shape[2] - 1), columns.clamp(0, x.shape[3] - 1)
    if spec.flip:
        columns = torch.where(flipped.bool(), columns.flip(1), columns)
    index = rows[:, :, None] * x.shape[3] + columns[:, None, :]  # (B, H, W)
    index = index.flatten(1)[:, None].expand(-1, x.shape[1], -1)  # (B, C, H*W)
    return x.flatten(2).gather(2, index).unflatten(2, (height, width))


def centre_crop(x: Tensor, spec: DatasetSpec) -> Tensor:
    """Return a view of the middle pixels (B, C, H, W) of images (B, C, H0, W0).

    Where an odd number of pixels is cut off, more are cut off at the bottom and the right.

    Raises:
        InputError: The images are smaller than (H, W).
    """
    spare_rows, spare_columns = _spare(x.shape, spec, 0)
    top, left = spare_rows // 2, spare_columns // 2
    return x[:, :, top : top + spec.shape[1], left : left + spec.shape[2]]


def _spare(shape: torch.Size, spec: DatasetSpec, pad: int) -> tuple[int, int]:
    """Return how many rows and columns of padded images a crop to ``spec.shape`` drops."""
    require(
        len(shape) == 4 and shape[1] == spec.shape[0],
        f"images are {tuple(shape)}; {spec.name} has (B, {spec.shape[0]}, H, W)",
    )
    rows = shape[2] + 2 * pad - spec.shape[1]
    columns = shape[3] + 2 * pad - spec.shape[2]
    require(
        min(rows, columns) >= 0,
        f"images are {tuple(shape)}; crops of {spec.name} need at least "
        f"{spec.shape[1] - 2 * pad}x{spec.shape[2] - 2 * pad} pixels",
    )
    return rows, columns


def batches(n: int, batch_size: int, *, seed: int, epoch: int) -> Tensor:
    """Draw the batches of one epoch: samples 0 to n - 1, int64 (n // batch_size, batch_size).

    They depend on the arguments alone, so a run can be resumed within an epoch. Samples that do
    not fill a batch are dropped.

    Raises:
        InputError: An argument is out of range.
    """
    fits = f"batch size {batch_size} does not fit {n} samples; give 1 to {max(n, 1)}"
    require(1 <= batch_size <= n, fits)
    require(min(seed, epoch) >= 0, f"seed {seed} and epoch {epoch} must not be negative")
    order = np.random.default_rng((seed, epoch)).permutation(n)
    count = n // batch_size
    return torch.from_numpy(order[: count * batch_size].reshape(count, batch_size))
