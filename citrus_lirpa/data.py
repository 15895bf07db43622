"""Data sets as whole tensors of bytes, and what a training loop draws from them.

``load`` returns a ``Split`` (all images of a training or test set, uint8);
``batches`` says which samples form which batch, ``augment`` flips and crops a batch. A new
data set is one loader and one entry of ``DATASETS``.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import ConfigError, DataError, InputError, unknown
from .readers import (
    Arrays,
    load_cifar10,
    load_digits,
    load_mnist,
    load_tinyimagenet,
    missing_files,
    wnids,
)

_log = logging.getLogger(__name__)


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
    loader: "Callable[[DatasetSpec, Path, bool, bool], Arrays]"
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

    def with_crop(self, size: int) -> "DatasetSpec":
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


def load(name: str, *, train: bool, data_dir: Path, download: bool = True) -> Split:
    """Read the training or test set ``name`` of ``DATASETS`` into memory, in a fixed order.

    Absent files are downloaded if ``download`` is true and torchvision knows where from. A
    download appears below ``data_dir`` only once it is complete and verified.

    Raises:
        ConfigError: the name is unknown.
        DataError: the data is absent and cannot be downloaded, damaged, or not as expected.
        DependencyError: torchvision is needed and cannot be imported.
    """
    spec = find_spec(name)
    folder = Path(data_dir).expanduser().absolute()
    images, labels = spec.loader(spec, folder, train, download)
    split = Split(images, labels)
    if len(split) == 0 or images.shape[1:] != spec.shape:
        raise DataError(
            f"{name} in {folder} holds images {tuple(images.shape)}; expected (N, C, H, W) "
            f"with (C, H, W) = {spec.shape} and at least one image"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= spec.classes:
        raise DataError(
            f"{name} in {folder} holds labels {low} to {high}; expected 0 to {spec.classes - 1}"
        )
    _log.debug("%s, %s set: %d images", name, "training" if train else "test", len(split))
    return split


def find_spec(name: str) -> DatasetSpec:
    """The entry ``name`` of ``DATASETS``; ConfigError, with the nearest name, if there is none."""
    if name in DATASETS:
        return DATASETS[name]
    raise ConfigError(unknown("data set", name, DATASETS))


def find_datasets(data_dir: Path) -> dict[str, str]:
    """For each data set one short line: embedded, found in ..., or not found in ....

    Looks for names of files only: reads no contents, downloads nothing.
    """
    folder = Path(data_dir).expanduser().absolute()
    status = {}
    for name, spec in DATASETS.items():
        missing = missing_files(spec, folder)
        if not spec.files:
            status[name] = "embedded"
        elif not missing:
            status[name] = f"found in {folder}"
        else:
            status[name] = f"not found in {folder} (no {missing[0]})"
    return status


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


_DIGIT_NAMES = tuple("0123456789")
_MNIST_FILES = tuple(
    f"MNIST/raw/{part}-ubyte"
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
)
_CIFAR_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")

DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(name="digits", shape=(1, 8, 8), class_names=_DIGIT_NAMES, loader=load_digits),
        DatasetSpec(
            name="mnist",
            shape=(1, 28, 28),
            class_names=_DIGIT_NAMES,
            loader=load_mnist,
            files=_MNIST_FILES,
            archive="MNIST/raw/*-ubyte.gz",
        ),
        DatasetSpec(
            name="cifar10",
            shape=(3, 32, 32),
            class_names=(
                "airplane",
                "automobile",
                "bird",
                "cat",
                "deer",
                "dog",
                "frog",
                "horse",
                "ship",
                "truck",
            ),  # fmt: skip
            loader=load_cifar10,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),
            flip=True,
            pad=2,
            files=tuple(f"cifar-10-batches-py/{file}" for file in _CIFAR_FILES),
            archive="cifar-10-python.tar.gz",
        ),
        DatasetSpec(
            name="tinyimagenet",
            shape=(3, 64, 64),
            class_names=wnids(),
            loader=load_tinyimagenet,
            mean=(0.4802, 0.4481, 0.3975),
            std=(0.2302, 0.2265, 0.2262),
            flip=True,
            pad=4,
            files=("tiny-imagenet-200/train", "tiny-imagenet-200/val"),
            archive="tiny-imagenet-200.zip",
        ),
    )
}
