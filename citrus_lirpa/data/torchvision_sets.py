"""The other classification sets of torchvision, by name: ``cifar100``, ``flowers102,resize=64``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import ConfigError, DataError, InputError, expect_known, reason, require
from ..imports import import_torchvision
from .readers import (
    FETCH_ERRORS,
    IMAGE_ERRORS,
    READ_ERRORS,
    decode_all,
    failed_download,
    last_line,
    quiet_download,
)
from .turns import in_turns, turns
from .types import Arrays, DatasetSpec

#: Of sets without training and test images: every fifth image of a class is a test image.
_EVERY = 5
_MAX_SIDE = 4096
_RESIZE = "resize"

Arguments = Mapping[str, Any]


def _split(train: str, test: str, key: str = "split") -> tuple[Arguments, Arguments]:
    return {key: train}, {key: test}


_FLAG: tuple[Arguments, Arguments] = ({"train": True}, {"train": False})
_TRAIN_TEST = _split("train", "test")


@dataclass(frozen=True)
class _Set:
    """A set of torchvision.

    Attributes:
        kind: The name of its class there.
        classes: Number of classes, without an option that changes it.
        shape: (C, H, W); None for photographs of many sizes.
        parts: What its training and its test set are called there; None for a set of one part.
        options: The values of an option that it has, and the classes for each; without a number
            of ``classes`` it has to be given.
        fetches: Whether torchvision can download it.
        flip: Whether training may flip images.
    """

    kind: str
    classes: int = 0
    shape: tuple[int, int, int] | None = None
    parts: tuple[Arguments, Arguments] | None = _TRAIN_TEST
    options: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    fetches: bool = True
    flip: bool = True


_LETTERS = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 27, "digits": 10, "mnist": 10}
SETS: dict[str, _Set] = {
    row.kind.lower(): row
    for row in (
        _Set("Caltech101", 101, parts=None),
        _Set("Caltech256", 257, parts=None),
        _Set("CIFAR100", 100, (3, 32, 32), _FLAG),
        _Set("CLEVRClassification", 11, (3, 320, 480), _split("train", "val")),
        _Set("Country211", 211),
        _Set("DTD", 47, options={"partition": {str(i): 47 for i in range(1, 11)}}),
        _Set("EMNIST", 0, (1, 28, 28), _FLAG, {"split": _LETTERS}, flip=False),
        _Set("EuroSAT", 10, (3, 64, 64), None),
        _Set("FER2013", 7, (1, 48, 48), fetches=False),
        _Set("FGVCAircraft", 100,
             options={"annotation_level": {"variant": 100, "family": 70, "manufacturer": 30}}),
        _Set("Flowers102", 102),
        _Set("Food101", 101),
        _Set("ImageNet", 1000, None, _split("train", "val"), fetches=False),
        _Set("Imagenette", 10, None, _split("train", "val"),
             {"size": {"full": 10, "320px": 10, "160px": 10}}),
        _Set("INaturalist", 10_000, None, _split("2021_train", "2021_valid", "version")),
        _Set("OxfordIIITPet", 37, None, _split("trainval", "test"),
             {"target_types": {"category": 37, "binary-category": 2}}),
        _Set("PCAM", 2, (3, 96, 96)),
        _Set("Places365", 365, None, _split("train-standard", "val")),
        _Set("QMNIST", 10, (1, 28, 28), _FLAG, flip=False),
        _Set("RenderedSST2", 2, (3, 448, 448), flip=False),
        _Set("SEMEION", 10, (1, 16, 16), None, flip=False),
        _Set("StanfordCars", 196, fetches=False),
        _Set("STL10", 10, (3, 96, 96)),
        _Set("SUN397", 397, parts=None),
        _Set("USPS", 10, (1, 16, 16), _FLAG, flip=False),
    )
}  # fmt: skip


def is_set(name: str) -> bool:
    """Return whether a name, perhaps with options, is one of ``SETS``."""
    return name.partition(",")[0] in SETS


def find(name: str) -> DatasetSpec:
    """Describe a set of torchvision; its classes are numbered as there.

    Args:
        name: A name of ``SETS``, and perhaps options: ``emnist,split=letters`` or
            ``flowers102,resize=64``, which scales each image so that its shorter side has 64
            pixels and takes the central square.

    Raises:
        ConfigError: An option is unknown, or one is missing.
    """
    kind, given = _parsed(name)
    row = SETS[kind]
    side = _side(kind, given.pop(_RESIZE, None))
    if row.shape is None:
        require(side, f"the images of {kind} are of many sizes; scale them to one: "
                f"--data {name},resize=64", ConfigError)  # fmt: skip
    channels, height, width = row.shape or (3, side, side)
    shape = (channels, side, side) if side else (channels, height, width)
    classes = row.classes
    for key, values in row.options.items():
        require(classes or key in given, f"{kind} needs its {key}: --data {kind},{key}=..., one of "
                f"{', '.join(values)}", ConfigError)  # fmt: skip
        classes = values[given[key]] if key in given else classes

    def loader(spec: DatasetSpec, folder: Path, train: bool, download: bool) -> Arrays:
        return _load(spec, row, given, folder, train, download)

    return DatasetSpec(
        name=name,
        shape=shape,
        class_names=tuple(map(str, range(classes))),
        loader=loader,
        mean=(0.5,) * 3 if channels == 3 else (0.0,),
        std=(0.25,) * 3 if channels == 3 else (1.0,),
        flip=row.flip,
        pad=shape[1] // 16 if row.flip else 0,
    )


def scaled(image: Image.Image, side: int) -> Image.Image:
    """Scale an image so that its shorter side has ``side`` pixels, and take the central square."""
    return ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)


def _parsed(name: str) -> tuple[str, dict[str, str]]:
    kind, *words = name.split(",")
    known = SETS[kind].options
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        expect_known(f"option of {kind}", key, [*known, _RESIZE])
        require(equals and key not in given, f"{name}: expected {key}=VALUE once", ConfigError)
        if key in known:
            expect_known(f"{key} of {kind}", value, known[key])
        given[key] = value
    return kind, given


def _side(kind: str, value: str | None) -> int:
    if value is None:
        return 0
    usable = value.isdecimal() and 0 < int(value) <= _MAX_SIDE
    require(usable, f"resize of {kind} is {value!r}; expected 1 to {_MAX_SIDE} pixels", ConfigError)
    return int(value)


def _load(
    spec: DatasetSpec, row: _Set, given: dict[str, str], folder: Path, train: bool, download: bool
) -> Arrays:
    """Read the training or the test set, fetched first if it is missing."""
    options = {key: int(value) if value.isdecimal() else value for key, value in given.items()}
    parts = [{**part, **options} for part in row.parts or ({},)]
    data = _opened(spec, row, parts, folder, 0 if train else -1, download)
    images, labels = _decoded(spec, data, folder)
    order = _order(data, labels)
    if row.parts is None:
        test = turns(labels[order]) % _EVERY == _EVERY - 1
        order = order[~test if train else test]
    if bool((labels[order].diff() >= 0).all()):
        order = order[in_turns(labels[order])]
    return images[order], labels[order]


def _opened(
    spec: DatasetSpec,
    row: _Set,
    parts: list[dict[str, Any]],
    folder: Path,
    part: int,
    download: bool,
) -> Any:
    reader = getattr(import_torchvision().datasets, row.kind)
    flag = {"download": False} if row.fetches else {}
    try:
        return reader(folder, **parts[part], **flag)
    except READ_ERRORS as error:
        if not (download and row.fetches):
            why = reason(error).partition(" You can ")[0]  # which is no option of ours
            raise _absent(spec, row, folder, why) from error
    try:
        _fetch(reader, parts, folder)
        return reader(folder, **parts[part], **flag)
    except FETCH_ERRORS as error:
        raise _absent(spec, row, folder, failed_download(error)) from error


def _absent(spec: DatasetSpec, row: _Set, folder: Path, why: str) -> DataError:
    return DataError(
        f"{spec.name} cannot be read in {folder} ({why}); put its files there as torchvision's "
        f"{row.kind} has them, or pass another --data-dir"
    )


def _fetch(reader: Any, parts: list[dict[str, Any]], folder: Path) -> None:
    """Download into a scratch folder, then move what is complete into place."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch, quiet_download():
        for part in parts:
            reader(scratch, **part, download=True)
        for entry in Path(scratch).iterdir():
            place = folder / entry.name
            if place.is_dir():
                raise FileExistsError(f"{place} is incomplete or damaged; delete it first")
            entry.replace(place)


def _decoded(spec: DatasetSpec, data: Any, folder: Path) -> Arrays:
    """Decode all images, uint8 (N, C, H, W)."""
    images = torch.empty((len(data), *spec.shape), dtype=torch.uint8)
    labels = torch.empty(len(data), dtype=torch.int64)

    def decode(i: int) -> None:
        image, label = data[i]
        if not (isinstance(label, (int, np.integer)) and 0 <= label < spec.classes):
            raise ValueError(f"image {i} has the label {label}; expected 0 to {spec.classes - 1}")
        images[i], labels[i] = _pixels(spec, image, i), int(label)

    try:
        decode_all(decode, len(data))
    except InputError:
        raise
    except IMAGE_ERRORS as error:
        raise DataError(f"{spec.name} in {folder} is damaged ({last_line(error)})") from error
    return images, labels


def _pixels(spec: DatasetSpec, image: Image.Image, number: int) -> Tensor:
    channels, height, width = spec.shape
    image = image.convert("L" if channels == 1 else "RGB")
    if _RESIZE + "=" in spec.name:
        image = scaled(image, height)
    require(
        image.size == (width, height),
        f"image {number} of {spec.name} is {image.size[1]}x{image.size[0]}, not "
        f"{height}x{width}; scale all to one size: --data {spec.name},resize={min(height, width)}",
    )
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)


def _order(data: Any, labels: Tensor) -> Tensor:
    """Return the order of the files, which torchvision takes as the disk lists them."""
    files = getattr(data, "_image_files", None)
    if files is None:
        return torch.arange(len(labels))
    return torch.tensor(sorted(range(len(files)), key=lambda i: str(files[i])))
