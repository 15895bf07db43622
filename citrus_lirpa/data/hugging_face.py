"""Hugging Face ``datasets`` on the disk, as ``DatasetDict.save_to_disk`` writes them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError, foreign, require
from ..imports import import_optional

#: What marks a folder of ``DatasetDict.save_to_disk``.
MARK = "dataset_dict.json"
_TEST_SPLITS = ("test", "validation", "val")

#: What an image is called, what opens it with Pillow, and its label.
Entry = tuple[str, Callable[[], Any], int]


class Saved:
    """A folder with a split test, validation or val, and perhaps train.

    Each has one column of images, and one of class labels.

    Args:
        root: The folder.

    Raises:
        InputError: It holds something else.
        DependencyError: The package ``datasets`` is missing.
    """

    def __init__(self, root: Path):
        self.root, self.splits = root, _load(root)
        tests = [name for name in _TEST_SPLITS if name in self.splits]
        require(
            tests,
            f"{root} holds the splits {', '.join(self.splits) or 'none'}; expected test or "
            "validation, and train for training",
        )
        self.test, self.trains = tests[0], "train" in self.splits
        features = self.splits["train" if self.trains else self.test].features
        self.image = self._column(features, "Image")
        self.label = self._column(features, "ClassLabel")
        self.class_names: tuple[str, ...] = tuple(features[self.label].names)

    def entries(self, name: str) -> Iterator[Entry]:
        """Iterate over a split, of which each image is decoded when it is opened."""
        split = self.splits[name]
        for row, label in enumerate(split[self.label]):
            what = f"image {row} of {name} in {self.root}"
            yield what, functools.partial(self._open, split, row), label

    def _open(self, split: Any, row: int) -> Any:
        return split[row][self.image]

    def _column(self, features: Any, kind: str) -> str:
        kinds = {name: type(feature).__name__ for name, feature in features.items()}
        found = [name for name in kinds if kinds[name] == kind]
        require(
            len(found) == 1,
            f"{self.root} has columns {', '.join(f'{n} ({k})' for n, k in kinds.items())}; "
            f"expected one of kind {kind}",
        )
        return found[0]


def _load(root: Path) -> Any:
    datasets = import_optional("datasets", "pip install datasets")
    with foreign(InputError, f"{root} is damaged", "save it again"):
        return datasets.load_from_disk(str(root))
