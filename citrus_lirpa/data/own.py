"""Users' own data: a folder, an .npz archive, or a function in a file."""

from __future__ import annotations

import functools
import hashlib
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import InputError, foreign, reason, require
from ..imports import code_hash, is_code, load_code, permit_code
from . import hugging_face
from .arrays import as_arrays, read_pairs
from .torchvision_sets import scaled
from .turns import in_turns
from .types import Arrays, DatasetSpec

_TRAIN, _TEST = ("x_train", "y_train"), ("x_test", "y_test")
_NAMES = "class_names"
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
_TEST_FOLDERS = ("test", "val")

#: The training set, if there is one, the test set, and the names of the classes, if they are known.
_Sets = tuple[Arrays | None, Arrays, tuple[str, ...]]


def is_source(name: str) -> bool:
    """Return whether a data set's name is one of a user's own data."""
    return is_code(name) or name.endswith(".npz") or "/" in name or _place(name)[0].is_dir()


def find(name: str, sha256: str = "") -> DatasetSpec:
    """Describe a user's own data: the shape of its images, and its classes.

    Args:
        name: A folder with ``train`` and ``test`` or ``val``, each with a folder of images for
            each class, which take turns; a folder of ``DatasetDict.save_to_disk`` of Hugging Face;
            an ``.npz`` file with x_train, y_train, x_test, y_test and, perhaps, class_names; or
            ``file.py:function``, which returns (images, labels), (images, labels, class_names) or
            a map-style Dataset for ``train=True`` and ``train=False``. Of the first three the
            training set may be missing. ``FOLDER,resize=64`` scales each image of a folder so that
            its shorter side has 64 pixels, and takes the central square.
        sha256: What ``source_hash`` must be; empty for anything.

    Raises:
        InputError: There is nothing of this kind, or it cannot be used.
        ConfigError: It is code that the user has not named, or that fails.
    """
    require(
        not sha256 or source_hash(name) == sha256,
        f"{name} has changed since the run was made; restore it, or name it anew by --data",
    )
    training, test, names = _sets(name)
    images, labels = test
    if training is not None:
        shape, other = tuple(training[0].shape[1:]), tuple(images.shape[1:])
        require(
            shape == other,
            f"{name} has training images of {shape} and test images of {other}; expected one shape",
        )
        labels = torch.cat([training[1], labels])
    low, count = int(labels.min()), 1 + int(labels.max())
    names = names or tuple(map(str, range(max(count, 2))))
    require(
        low >= 0 and count <= len(names),
        f"{name} holds labels {low} to {count - 1}; expected 0 to {len(names) - 1}",
    )

    def loader(spec: DatasetSpec, folder: Path, train: bool, download: bool) -> Arrays:
        if not train:
            return test
        if training is None:
            raise InputError(f"{name} has test images alone; expected training images too")
        return training

    channels, height, width = images.shape[1:]
    return DatasetSpec(
        name=name,
        shape=(channels, height, width),
        class_names=names,
        loader=loader,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )


def class_names(name: str) -> tuple[str, ...]:
    """Return the names of the classes of a user's own data, without its images; () for code."""
    path, _ = _place(name)
    if is_code(name):
        return ()
    require(path.exists(), f"{name} does not exist")
    if (path / hugging_face.MARK).is_file():
        return hugging_face.Saved(path).class_names
    if path.is_dir():
        return _class_folders(path)
    return tuple(map(str, _read(path, _NAMES).get(_NAMES, ())))


def named(source: str) -> str:
    """Return the name of data that the user has named, with its whole path; permit its code."""
    if is_code(source):
        return permit_code(source)
    path, side = _place(source)
    path = path.expanduser().resolve()
    require(path.exists(), f"{path} does not exist; expected a folder, FILE.npz or FILE.py:NAME")
    return f"{path},resize={side}" if side else str(path)


def source_hash(name: str) -> str:
    """Return the SHA-256 of a file, or of the names and sizes of a folder's files.

    Raises:
        InputError: It cannot be read.
        ConfigError: It is code that cannot be read.
    """
    if is_code(name):
        return code_hash(name)
    digest, path = hashlib.sha256(), _place(name)[0]
    try:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.is_file():
                    digest.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
        else:
            digest.update(path.read_bytes())
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror})") from error
    return digest.hexdigest()


@functools.lru_cache(maxsize=2)
def _sets(name: str) -> _Sets:
    """Return the training set if there is one, the test set, and names of classes if known."""
    path, side = _place(name)
    if is_code(name):
        make = load_code(name)
        training, names = _made(name, make, True)
        return training, _made(name, make, False)[0], names
    require(path.exists(), f"{path} does not exist; restore it, or name other data by --data")
    require(path.is_dir() or not side, f"{path} is not a folder; resize scales images of a folder")
    return _folder(path, side) if path.is_dir() else _archive(path)


def _place(name: str) -> tuple[Path, int]:
    """Return where own data is, and the side that its images are scaled to, 0 for none."""
    found = re.fullmatch(r"(.+),resize=([1-9]\d{0,3})", name)
    return (Path(found[1]), int(found[2])) if found else (Path(name), 0)


# -- folders ------------------------------------------------------------------------------


def _folder(root: Path, side: int) -> _Sets:
    if (root / hugging_face.MARK).is_file():
        saved = hugging_face.Saved(root)
        training = _stack(saved.entries("train"), None, side) if saved.trains else None
        others = _stack(saved.entries(saved.test), _first(training), side)
        return training, others, saved.class_names
    test, train, names = _test_folder(root), root / "train", _class_folders(root)
    unknown = sorted({p.name for p in test.iterdir() if p.is_dir()} - set(names))
    require(not unknown, f"{test} has a folder {', '.join(unknown[:1])}, and {train} has none: "
            "expected one for each class in both")  # fmt: skip
    training = _images(train, names, None, side) if train.is_dir() else None
    return training, _images(test, names, _first(training), side), names


def _test_folder(root: Path) -> Path:
    test = next((root / name for name in _TEST_FOLDERS if (root / name).is_dir()), None)
    if test is None:
        expected = "expected test (or val), and train for training, each with a folder a class"
        raise InputError(f"{root} holds no folder test or val; {expected}")
    return test


def _class_folders(root: Path) -> tuple[str, ...]:
    folder = root / "train" if (root / "train").is_dir() else _test_folder(root)
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
    require(len(names) > 1, f"{folder} holds {len(names)} folders; expected one for each of at "
            "least two classes")  # fmt: skip
    return names


def _first(training: Arrays | None) -> np.ndarray | None:
    """Return the first training image, which all test images must be like."""
    return None if training is None else training[0][0].numpy()


def _images(folder: Path, names: tuple[str, ...], first: np.ndarray | None, side: int) -> Arrays:
    """Read all images of a folder, all like the ``first`` one of the data set."""
    entries: list[hugging_face.Entry] = []
    for label, name in enumerate(names):
        files = sorted(f for f in (folder / name).rglob("*") if f.suffix.lower() in _IMAGES)
        require(bool(files), f"{folder / name} holds no images; expected {', '.join(_IMAGES)}")
        entries += [(str(file), functools.partial(Image.open, file), label) for file in files]
    order = in_turns(torch.tensor([label for *_, label in entries]))
    return _stack([entries[i] for i in order], first, side)


def _stack(entries: Iterable[hugging_face.Entry], first: np.ndarray | None, side: int) -> Arrays:
    """Read images, all like the ``first`` one of the data set."""
    images, labels = [], []
    for what, open_image, label in entries:
        images.append(_decode(what, open_image, first, side))
        labels.append(label)
        first = images[0] if first is None else first
    require(bool(images), "a split holds no images; expected at least one in each")
    stacked = np.ascontiguousarray(np.stack(images))  # else x.view would fail in a network
    return torch.from_numpy(stacked), torch.tensor(labels)


def _decode(
    what: str, open_image: Callable[[], Any], first: np.ndarray | None, side: int
) -> np.ndarray:
    """Read an image as uint8 (C, H, W), grey or in colour as the ``first`` one is."""
    with foreign(InputError, f"{what} is damaged or unusable"):
        with open_image() as opened:
            image = _in_bytes(opened)
        grey = image.mode in ("1", "L", "LA") if first is None else len(first) == 1
        image = image.convert("L" if grey else "RGB")
        pixels = np.array(scaled(image, side) if side else image)
    pixels = pixels[None] if grey else pixels.transpose(2, 0, 1)
    require(
        first is None or pixels.shape == first.shape,
        f"{what} is {pixels.shape}; the first image is "
        f"{() if first is None else first.shape}, and all must be alike: have them scaled by "
        "--data FOLDER,resize=64",
    )
    return pixels


def _in_bytes(image: Image.Image) -> Image.Image:
    """Return an image with bytes as pixels: of 16 bits the upper ones, which Pillow would clip."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if sixteen:
        return Image.fromarray((np.array(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels are of Pillow's mode {image.mode}; expected 8 or 16 bits")
    image.load()
    return image


# -- arrays -------------------------------------------------------------------------------


def _archive(path: Path) -> _Sets:
    arrays = _read(path, *_TRAIN, *_TEST, _NAMES)
    expected = (*_TRAIN, *_TEST) if any(key in arrays for key in _TRAIN) else _TEST
    missing = [key for key in expected if key not in arrays]
    require(
        not missing,
        f"{path} lacks {', '.join(missing)}; expected the arrays {', '.join(_TEST)}, and "
        f"{', '.join(_TRAIN)} for training",
    )

    def part(keys: tuple[str, str], what: str) -> Arrays:
        x, y = (arrays[key] for key in keys)
        return as_arrays(x, y, f"{path}, {what}")

    training = part(_TRAIN, "train") if expected != _TEST else None
    return training, part(_TEST, "test"), tuple(map(str, arrays.get(_NAMES, ())))


def _read(path: Path, *keys: str) -> dict[str, np.ndarray]:
    """Read those arrays of an archive that are there."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in keys if key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not an archive of numpy.savez: {reason(error)}") from error


def _made(name: str, make: Any, train: bool) -> tuple[Arrays, tuple[str, ...]]:
    """Return what a user's function makes, and the names of the classes if it returns them."""
    expected = "expected (images, labels), (images, labels, class_names) or a Dataset"
    with foreign(InputError, f"{name}(train={train}) fails", expected):
        made = make(train=train)
        x, y, *more = made if isinstance(made, tuple) else read_pairs(made)
        (names,) = more or [()]
        names = tuple(map(str, names))
    return as_arrays(np.asarray(x), np.asarray(y), f"{name}(train={train})"), names
