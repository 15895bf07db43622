"""What a data set is, and a training or test set of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import DataError, expect, require

Arrays = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What a model, an augmentation and a loader need to know of a data set.

    Attributes:
        name: Its name.
        shape: (C, H, W) of the images that a model takes.
        class_names: The names of the classes, in the order of the labels.
        loader: A function of (spec, data_dir, train, download) that returns images and labels.
        mean: The mean of each channel, for pixels in [0, 1].
        std: The standard deviation of each channel.
        flip: Whether training may flip images horizontally.
        pad: How many edge pixels are repeated around an image before a random crop to H x W.
        files: What the loader reads, below ``data_dir``.
        archive: What one downloads to get ``files``, a glob pattern.
    """

    name: str
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    loader: Callable[[DatasetSpec, Path, bool, bool], Arrays]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    flip: bool = False
    pad: int = 0
    files: tuple[str, ...] = ()
    archive: str = ""

    @property
    def classes(self) -> int:
        """Return the number of classes, K."""
        return len(self.class_names)

    def with_crop(self, size: int) -> DatasetSpec:
        """Return the same data set with unpadded square crops, ``size`` pixels wide.

        The crops are random in ``augment`` and central in ``centre_crop``; ``load`` is unaffected.

        Raises:
            InputError: ``size`` is less than 1 or more than the images' height or width.
        """
        channels, height, width = self.shape
        require(
            1 <= size <= min(height, width),
            f"crop {size} does not fit {self.name}; give 1 to {min(height, width)} pixels",
        )
        return replace(self, shape=(channels, size, size), pad=0)


@dataclass(frozen=True, eq=False)
class Split:
    """A training or test set.

    Attributes:
        images: uint8, or float32 in [0, 1], (N, C, H, W).
        labels: int64 (N,).

    Raises:
        DataError: A dtype or shape is another.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        require(
            self.images.dtype in (torch.uint8, torch.float32) and self.images.ndim == 4,
            f"images are {self.images.dtype} {tuple(self.images.shape)}; "
            "expected torch.uint8 or torch.float32 (N, C, H, W)",
            DataError,
        )
        require(
            self.labels.dtype == torch.int64 and self.labels.shape == self.images.shape[:1],
            f"labels are {self.labels.dtype} {tuple(self.labels.shape)}; expected "
            f"torch.int64 ({len(self.images)},), one for each image",
            DataError,
        )

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, index: Tensor | slice | list[int]) -> Tensor:
        """Return the images at ``index`` as float32 pixels in [0, 1], (B, C, H, W)."""
        images = self.images[index]
        return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images


def divide(split: Split, held_out: int) -> tuple[Split, Split]:
    """Split off the last ``held_out`` images of a training set; return the others, and these.

    Raises:
        InputError: ``held_out`` is negative, or no image would remain.
    """
    rest = len(split) - held_out
    expect(
        0 <= held_out < len(split),
        "data.held_out",
        held_out,
        f"0 to {len(split) - 1}, of {len(split)} training images",
    )
    return (
        Split(split.images[:rest], split.labels[:rest]),
        Split(split.images[rest:], split.labels[rest:]),
    )
