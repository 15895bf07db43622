"""Reading data sets from disk, and downloading them through torchvision.

A loader takes (spec, folder, train, download) and returns images uint8 (N, C, H, W) and labels
int64 (N,); it raises DataError. torchvision, which takes longer to import than most data sets to
read, is imported for downloads, SVHN and GTSRB alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import pickle  # nosec B403
import shutil
import socket
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import DataError
from ..imports import import_torchvision
from .types import Arrays, DatasetSpec

_DIGITS_TRAIN = 1397  # the first samples of digits.npz; the other 400 are the test set
#: MD5 of CIFAR-10's files.
_CIFAR_SUMS = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
_NETWORK_TIMEOUT = 30.0  # seconds without an answer before a download counts as failed
#: What torchvision's readers raise on damaged files.
READ_ERRORS = (OSError, RuntimeError, ValueError, TypeError, LookupError, AssertionError,
               EOFError, pickle.UnpicklingError)  # fmt: skip
#: What Pillow raises on damaged images; bombs are no subclasses of the others.
IMAGE_ERRORS = (*READ_ERRORS, SyntaxError, Image.DecompressionBombError,
                Image.DecompressionBombWarning)  # fmt: skip
#: What its downloaders raise, on bad networks too.
FETCH_ERRORS = (*READ_ERRORS, http.client.HTTPException, tarfile.TarError)


def missing_files(spec: DatasetSpec, folder: Path) -> list[str]:
    """Return the files of the data set that are not below ``folder``."""
    return [file for file in spec.files if not (folder / file).exists()]


def _absent(spec: DatasetSpec, folder: Path, missing: list[str], reason: str = "") -> DataError:
    """Return the error for data that is missing: where, what was expected, the fix."""
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    unpack = " and unpack it there" if spec.archive.endswith(".zip") else ""
    return DataError(
        f"{spec.name} not found in {folder}: expected {missing[0]}{more}{reason}; download "
        f"{spec.archive} by hand into {folder}{unpack}, or pass another --data-dir"
    )


def load_digits(spec: DatasetSpec, folder: Path, train: bool, download: bool) -> Arrays:
    """Read the embedded digits; ``assets/README.md`` has their source, licence and split.

    Raises:
        DataError: The file is missing or damaged.
    """
    part = slice(None, _DIGITS_TRAIN) if train else slice(_DIGITS_TRAIN, None)
    try:
        asset = resources.files(__package__) / "assets" / "digits.npz"
        with asset.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays["images"][part], arrays["labels"][part]
    except (*READ_ERRORS, zipfile.BadZipFile) as error:
        raise DataError(
            f"assets/digits.npz of citrus-lirpa is missing or damaged ({last_line(error)}); "
            "install the package again"
        ) from error
    return torch.from_numpy(images), torch.from_numpy(labels).long()


def load_mnist(spec: DatasetSpec, folder: Path, train: bool, download: bool) -> Arrays:
    """Read MNIST, or a data set of its form; download it if it is missing."""
    kind = Path(spec.files[0]).parts[0]  # torchvision's class and folder have one name
    _obtain(kind, spec, folder, download)
    with _named_if_damaged(spec, folder):
        images, labels = (_idx(folder / file) for file in spec.files[0 if train else 2 :][:2])
    return images[:, None], labels.long()


def _idx(path: Path) -> Tensor:
    """Read an IDX file: two zero bytes, type 8 (uint8), number of axes, sizes, values."""
    content = path.read_bytes()
    axes = content[3] if content[:3] == b"\0\0\x08" else 0
    if not 0 < axes < 4:
        raise ValueError(f"{path.name} is not an IDX file of bytes")
    shape = np.frombuffer(content, ">u4", axes, 4).tolist()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * axes).view(shape)


def load_cifar10(spec: DatasetSpec, folder: Path, train: bool, download: bool) -> Arrays:
    """Read CIFAR-10; download it if it is missing."""
    _obtain("CIFAR10", spec, folder, download)
    with _named_if_damaged(spec, folder):
        batches = [_cifar_batch(folder / file) for file in spec.files[:5] if train] or [
            _cifar_batch(folder / spec.files[5])
        ]
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, *spec.shape)
    return torch.from_numpy(images), torch.tensor([y for batch in batches for y in batch["labels"]])


def _cifar_batch(path: Path) -> dict[str, Any]:
    """Unpickle one of CIFAR-10's six files, which runs no code but theirs: its bytes are known."""
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != _CIFAR_SUMS[path.name]:
        raise ValueError(f"{path.name} has another checksum")
    return dict(pickle.loads(content, encoding="latin1"))  # noqa: S301  # nosec B301


def load_svhn(spec: DatasetSpec, folder: Path, train: bool, download: bool) -> Arrays:
    """Read SVHN's cropped digits; download them if they are missing."""
    data = read_with_torchvision("SVHN", spec, folder, train, download)
    return torch.from_numpy(data.data).contiguous(), torch.from_numpy(data.labels)


def read_with_torchvision(
    kind: str, spec: DatasetSpec, folder: Path, train: bool, download: bool
) -> Any:
    """Return the data set ``kind`` of torchvision from ``folder``, downloaded first if missing."""
    _obtain(kind, spec, folder, download)
    reader = getattr(import_torchvision().datasets, kind)
    with _named_if_damaged(spec, folder):
        return reader(folder, **_parts(kind)[0 if train else 1], download=False)


def _obtain(kind: str, spec: DatasetSpec, folder: Path, download: bool) -> None:
    """Download torchvision's data set ``kind`` into ``folder`` if it is missing there."""
    missing = missing_files(spec, folder)
    if not missing:
        return
    if not download:
        raise _absent(spec, folder, missing)
    reader = getattr(import_torchvision().datasets, kind)
    try:
        _download(reader, spec, folder, _parts(kind))
    except FETCH_ERRORS as error:
        raise _absent(spec, folder, missing, f" ({failed_download(error)})") from error


def failed_download(error: BaseException) -> str:
    """Return why a download failed."""
    if isinstance(error, http.client.InvalidURL):  # its text has the proxy's password
        return "the download failed: a malformed address; look at http_proxy and https_proxy"
    return f"the download failed: {last_line(error)}"


@contextlib.contextmanager
def _named_if_damaged(spec: DatasetSpec, folder: Path) -> Iterator[None]:
    """Turn what reading raises into a DataError with the files to delete."""
    try:
        yield
    except READ_ERRORS as error:
        places = {folder / file if "/" not in file else (folder / file).parent
                  for file in spec.files[:2]}  # fmt: skip
        raise DataError(
            f"{spec.name} in {folder} is damaged ({last_line(error)}); delete "
            f"{' and '.join(map(str, sorted(places)))} and run again to have it downloaded"
        ) from error


def _parts(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """How torchvision's data set ``kind`` calls its training and its test set."""
    if kind in ("SVHN", "GTSRB"):
        return {"split": "train"}, {"split": "test"}
    return {"train": True}, {"train": False}


def _download(
    reader: Callable[..., object], spec: DatasetSpec, folder: Path, parts: Iterable[dict[str, Any]]
) -> None:
    """Download into a scratch folder, then move the finished files into place one by one.

    Archives already in ``folder`` are used if their checksums are right.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
        for archive in folder.glob(spec.archive):
            copy = Path(scratch, archive.relative_to(folder))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(archive, copy)
        with quiet_download():
            for part in parts:
                reader(scratch, **part, download=True)
        for file in spec.files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            Path(scratch, file).replace(folder / file)


@contextlib.contextmanager
def quiet_download() -> Iterator[None]:
    """Send what a downloader prints to stderr, and let no connection wait for ever."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(timeout)


def load_tinyimagenet(spec: DatasetSpec, folder: Path, train: bool, download: bool) -> Arrays:
    """Read TinyImageNet's train or val folder, the latter as unpacked or with a folder a class.

    Samples are in the order of their class and number (train) or of their number (val), so that
    the layout of val does not matter, and its neighbours are of mixed classes.
    """
    part = spec.files[0] if train else spec.files[1]
    if not (folder / part).is_dir():
        raise _absent(spec, folder, [part])
    folders = {wnid: folder / part / wnid for wnid in spec.class_names}
    if train or any(path.is_dir() for path in folders.values()):
        files = {wnid: path.glob("**/*.[jJ][pP]*[gG]") for wnid, path in folders.items()}
        samples = [(file, wnid) for wnid in files for file in files[wnid]]
    else:
        samples = _annotated(folder / part / "val_annotations.txt")
    labels = {wnid: label for label, wnid in enumerate(spec.class_names)}
    wrong = sorted(set(labels).symmetric_difference(wnid for _, wnid in samples))
    if wrong:
        raise DataError(
            f"{folder / part} does not hold images of the 200 classes of TinyImageNet: "
            f"{wrong[0]} is missing or unknown; unpack {spec.archive} again"
        )
    samples.sort(key=lambda s: (s[1] if train else "", len(s[0].name), s[0].name))
    images = torch.empty((len(samples), *spec.shape), dtype=torch.uint8)

    def decode(i: int) -> None:
        images[i] = _decode(samples[i][0], spec.shape)

    decode_all(decode, len(samples))
    return images, torch.tensor([labels[wnid] for _, wnid in samples])


def decode_all(decode: Callable[[int], None], count: int) -> None:
    """Call ``decode`` for 0, ..., count - 1: Pillow decodes outside the interpreter's lock."""
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(decode, range(count)):
            pass


def _annotated(annotations: Path) -> list[tuple[Path, str]]:
    """Return the (image file, class) pairs of ``val_annotations.txt``."""
    try:
        rows = [line.split("\t") for line in annotations.read_text("utf-8").splitlines()]
        return [(annotations.parent / "images" / row[0], row[1]) for row in rows]
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise DataError(
            f"{annotations} is missing or damaged ({last_line(error)}); expected a line for "
            "each image with its name, a tab and its class; unpack tiny-imagenet-200.zip again"
        ) from error


def _decode(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """Return one image file as uint8 (3, H, W); a grey image is repeated over the channels."""
    size = (shape[2], shape[1])
    try:
        with Image.open(path) as image:
            if image.size == size:  # as the first bytes state; nothing is decoded yet
                return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
            found = image.size
    except IMAGE_ERRORS as error:
        fix = "unpack tiny-imagenet-200.zip again"
        raise DataError(f"{path} is missing or damaged ({last_line(error)}); {fix}") from error
    raise DataError(f"{path} is {(3, *found[::-1])}; expected (C, H, W) = {shape}")


def last_line(error: BaseException) -> str:
    """Return the last line of an exception's text, its type where the text is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def wnids() -> tuple[str, ...]:
    """Return the names of TinyImageNet's classes."""
    asset = resources.files(__package__) / "assets" / "tiny_imagenet_wnids.txt"
    return tuple(asset.read_text("ascii").split())
