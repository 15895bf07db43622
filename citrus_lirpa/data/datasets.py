"""The data sets, and reading them whole; a new one is a loader and an entry in ``DATASETS``."""

import logging
from pathlib import Path

from ..errors import ConfigError, DataError, require, unknown
from . import own, torchvision_sets
from .readers import (
    load_cifar10,
    load_digits,
    load_mnist,
    load_svhn,
    load_tinyimagenet,
    missing_files,
    wnids,
)
from .signs import SIGNS, load_gtsrb
from .types import DatasetSpec, Split

_log = logging.getLogger(__name__)


def load(name: str, *, train: bool, data_dir: Path, download: bool = True) -> Split:
    """Read a training or test set into memory, in a fixed order.

    Args:
        name: A name that :func:`find_spec` knows.
        train: Whether to read the training set.
        data_dir: The folder of the data sets. A download appears there only once it is complete
            and verified.
        download: Whether to download files that are missing, where torchvision can.

    Returns:
        The images and their labels.

    Raises:
        ConfigError: The name is unknown.
        DataError: The data is missing and cannot be downloaded, damaged, or not as expected.
        DependencyError: torchvision is needed and cannot be imported.
    """
    spec = find_spec(name)
    folder = Path(data_dir).expanduser().absolute()
    images, labels = spec.loader(spec, folder, train, download)
    split = Split(images, labels)
    require(
        len(split) and images.shape[1:] == spec.shape,
        f"{name} in {folder} holds images {tuple(images.shape)}; expected (N, C, H, W) with "
        f"(C, H, W) = {spec.shape} and at least one image",
        DataError,
    )
    low, high = int(labels.min()), int(labels.max())
    require(
        low >= 0 and high < spec.classes,
        f"{name} in {folder} holds labels {low} to {high}; expected 0 to {spec.classes - 1}",
        DataError,
    )
    _log.debug("%s, %s set: %d images", name, "training" if train else "test", len(split))
    return split


def find_spec(name: str, sha256: str = "") -> DatasetSpec:
    """Return an entry of ``DATASETS``, or describe another set of torchvision or a user's own data.

    Args:
        name: The name of the entry, that of a set of torchvision (see
            :func:`.torchvision_sets.find`), or where the data is (see :func:`.own.find`).
        sha256: The SHA-256 of the user's own data; empty for any.

    Raises:
        ConfigError: The name is unknown; the message has the nearest one.
        DataError: The user's own data cannot be used.
    """
    if not is_known(name):
        return own.find(name, sha256)
    return DATASETS[name] if name in DATASETS else torchvision_sets.find(name)


def class_names(name: str) -> tuple[str, ...]:
    """Return the names of the classes of a data set; () where only its labels would tell."""
    return find_spec(name).class_names if is_known(name) else own.class_names(name)


def is_known(name: str) -> bool:
    """Return whether a name is of a data set, not a user's own; ConfigError where it is neither."""
    if name in DATASETS or torchvision_sets.is_set(name):
        return True
    if own.is_source(name):
        return False
    known = [*DATASETS, *torchvision_sets.SETS]
    shown = [*DATASETS, "others of torchvision", "a folder", "FILE.npz", "FILE.py:NAME"]
    raise ConfigError(unknown("data set", name, known, shown))


def find_datasets(data_dir: Path) -> dict[str, str]:
    """Look for the files of each data set, without reading or downloading them.

    Return a short line by name: embedded, found in ..., or not found in ....
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


_DIGIT_NAMES = tuple("0123456789")
_MNIST_PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
_FASHION = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_GTSRB_FILES = ("GTSRB/Training", "GTSRB/Final_Test/Images", "GT-final_test.csv")
_CIFAR_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")


def _like_mnist(name: str, kind: str, class_names: tuple[str, ...]) -> DatasetSpec:
    """Describe a data set of MNIST's form, which torchvision calls ``kind``."""
    return DatasetSpec(
        name=name,
        shape=(1, 28, 28),
        class_names=class_names,
        loader=load_mnist,
        files=tuple(f"{kind}/raw/{part}-ubyte" for part in _MNIST_PARTS),
        archive=f"{kind}/raw/*-ubyte.gz",
    )


DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(name="digits", shape=(1, 8, 8), class_names=_DIGIT_NAMES, loader=load_digits),
        _like_mnist("mnist", "MNIST", _DIGIT_NAMES),
        _like_mnist("fashionmnist", "FashionMNIST", _FASHION),
        _like_mnist("kmnist", "KMNIST", _KANA),
        DatasetSpec(
            name="cifar10",
            shape=(3, 32, 32),
            class_names=_CIFAR_CLASSES,
            loader=load_cifar10,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),
            flip=True,
            pad=2,
            files=tuple(f"cifar-10-batches-py/{file}" for file in _CIFAR_FILES),
            archive="cifar-10-python.tar.gz",
        ),
        DatasetSpec(
            name="svhn",
            shape=(3, 32, 32),
            class_names=_DIGIT_NAMES,
            loader=load_svhn,
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            pad=2,
            files=("train_32x32.mat", "test_32x32.mat"),
            archive="*_32x32.mat",
        ),
        DatasetSpec(
            name="gtsrb",
            shape=(3, 32, 32),
            class_names=SIGNS,
            loader=load_gtsrb,
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            pad=2,
            files=tuple(f"gtsrb/{file}" for file in _GTSRB_FILES),
            archive="gtsrb/GTSRB*.zip",
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
