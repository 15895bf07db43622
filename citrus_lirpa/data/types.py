"""What a data set is, and a training or test set of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import DataError, InputError

Arrays = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What a model, an augmentation and a loader need to know of a data set.

    ``shape`` is the (C, H, W) which a model sees; ``mean`` and ``std`` are per channel, for
    pixels in [0, 1]. ``flip`` allows horizontal flips in training, ``pad`` is the number of
    edge pixels repeated around an image before a random crop to H x W. ``loader(spec,
    data_dir, train, download)`` returns images and labels. Below ``data_dir`` lie ``files``,
    which the loader reads; ``archive`` (a glob pattern) is what one downloads to get them.
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
        """The number of classes, K."""
        return len(self.class_names)

    def with_crop(self, size: int) -> DatasetSpec:
        """The same data set seen through unpadded ``size`` x ``size`` crops.

        Random ones in ``augment``, the middle one in ``centre_crop``; ``load`` is unaffected.

        Raises:
            InputError: ``size`` is not within 1 and the images' height and width.
        """
        channels, height, width = self.shape
        if not 1 <= size <= min(height, width):
            raise InputError(
                f"crop {size} does not fit {self.name}; give 1 to {min(height, width)} pixels"
            )
        return replace(self, shape=(channels, size, size), pad=0)


@dataclass(frozen=True, eq=False)
class Split:
    """A training or test set: ``images`` uint8 (N, C, H, W) and ``labels`` int64 (N,).

    Raises:
        DataError: on any other dtype or shape.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(
                f"images are {self.images.dtype} {tuple(self.images.shape)}; "
                "expected torch.uint8 (N, C, H, W)"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"labels are {self.labels.dtype} {tuple(self.labels.shape)}; expected "
                f"torch.int64 ({len(self.images)},), one for each image"
            )

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, index: Tensor | slice | list[int]) -> Tensor:
        """The images at ``index`` as float32 pixels in [0, 1], (B, C, H, W)."""
        return self.images[index].to(torch.float32) / 255


def check_split(data: object) -> None:
    """Refuse what is no Split, as a pair of tensors."""
    if not isinstance(data, Split):
        raise InputError(f"data is a {type(data).__name__}; expected a Split(images, labels)")


def divide(split: Split, held_out: int) -> tuple[Split, Split]:
    """All but the last ``held_out`` images, and those.

    Raises:
        InputError: that leaves no image in the first part.
    """
    rest = len(split) - held_out
    if not 0 <= held_out < len(split):
        raise InputError(
            f"data.held_out is {held_out}; expected 0 to {len(split) - 1}, of {len(split)} "
            "training images"
        )
    return (
        Split(split.images[:rest], split.labels[:rest]),
        Split(split.images[rest:], split.labels[rest:]),
    )
