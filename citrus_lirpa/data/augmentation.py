"""Crops, flips, and the batches of an epoch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .types import DatasetSpec


def augment(x: Tensor, spec: DatasetSpec, generator: torch.Generator) -> Tensor:
    """Crop each image at random to ``spec.shape`` after edge padding, then flip half of them.

    ``x`` is (B, C, H0, W0), the result (B, C, H, W), both on the device of ``x`` and in its
    dtype. Every shift of the crop within the padded image is equally likely. The result is a
    function of ``x`` and the state of ``generator`` (on any device). Where the spec has
    neither flip nor crop, ``x`` itself is returned and nothing is drawn.

    Raises:
        InputError: an image of ``x``, padded, is smaller than ``spec.shape``.
    """
    spare_rows, spare_columns = _spare(x, spec, spec.pad)
    if not (spec.flip or spare_rows or spare_columns):
        return x
    height, width = spec.shape[1:]

    def draw(choices: int) -> Tensor:
        drawn = torch.randint(choices, (len(x), 1), generator=generator, device=generator.device)
        return drawn.to(x.device)

    # Clamping the coordinates repeats the edge pixels, so nothing is ever padded.
    rows = draw(spare_rows + 1) - spec.pad + torch.arange(height, device=x.device)
    columns = draw(spare_columns + 1) - spec.pad + torch.arange(width, device=x.device)
    rows, columns = rows.clamp(0, x.shape[2] - 1), columns.clamp(0, x.shape[3] - 1)
    if spec.flip:
        columns = torch.where(draw(2).bool(), columns.flip(1), columns)
    index = rows[:, :, None] * x.shape[3] + columns[:, None, :]  # (B, H, W)
    index = index.flatten(1)[:, None].expand(-1, x.shape[1], -1)  # (B, C, H*W)
    return x.flatten(2).gather(2, index).unflatten(2, (height, width))


def centre_crop(x: Tensor, spec: DatasetSpec) -> Tensor:
    """The middle H x W pixels of each image: ``x`` (B, C, H0, W0) to (B, C, H, W), a view.

    Where an odd number of pixels is cut off, the larger part goes at the bottom and right.

    Raises:
        InputError: the images of ``x`` are smaller than ``spec.shape``.
    """
    spare_rows, spare_columns = _spare(x, spec, 0)
    top, left = spare_rows // 2, spare_columns // 2
    return x[:, :, top : top + spec.shape[1], left : left + spec.shape[2]]


def _spare(x: Tensor, spec: DatasetSpec, pad: int) -> tuple[int, int]:
    """Rows and columns which a crop of the padded (B, C, H, W) images to ``spec.shape`` drops."""
    if x.ndim != 4 or x.shape[1] != spec.shape[0]:
        raise InputError(f"images are {tuple(x.shape)}; {spec.name} has (B, {spec.shape[0]}, H, W)")
    rows = x.shape[2] + 2 * pad - spec.shape[1]
    columns = x.shape[3] + 2 * pad - spec.shape[2]
    if min(rows, columns) < 0:
        raise InputError(
            f"images are {tuple(x.shape)}; crops of {spec.name} need at least "
            f"{spec.shape[1] - 2 * pad}x{spec.shape[2] - 2 * pad} pixels"
        )
    return rows, columns


def batches(n: int, batch_size: int, *, seed: int, epoch: int) -> Tensor:
    """The samples of each batch of one epoch: int64 indices, (num_batches, batch_size).

    A random permutation of 0 .. n-1, cut into rows. It is a function of the arguments alone, so
    a run can be resumed within an epoch. What does not fill a batch is dropped.

    Raises:
        InputError: ``batch_size`` is not within 1 and ``n``, or seed or epoch is negative.
    """
    if not 1 <= batch_size <= n:
        raise InputError(f"batch size {batch_size} does not fit {n} samples; give 1 to {max(n, 1)}")
    if min(seed, epoch) < 0:
        raise InputError(f"seed {seed} and epoch {epoch} must not be negative")
    order = np.random.default_rng((seed, epoch)).permutation(n)
    count = n // batch_size
    return torch.from_numpy(order[: count * batch_size].reshape(count, batch_size))
