"""Inputs and labels from whatever a script has: arrays, tensors, a Dataset, or a DataLoader."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from ..errors import InputError, foreign, require
from .types import Arrays, Split

#: Entries of a data set that go through ``collate_fn`` together.
_AT_ONCE = 256
_EXPECTED = "expected (inputs, labels), a Dataset or a DataLoader of such pairs, or a Split"


def as_split(data: Any) -> Split:
    """Return a training or test set.

    Args:
        data: A Split; a pair of arrays or tensors (see :func:`as_arrays`); a map-style Dataset
            of pairs; or a DataLoader, of which all entries of its sampler are taken: neither
            ``shuffle`` nor ``drop_last`` counts.

    Raises:
        InputError: It is none of these, or cannot be used.
    """
    if isinstance(data, Split):
        return data
    if isinstance(data, (tuple, list)) and len(data) == 2:
        x, y = map(_array, data)
    else:
        x, y = read_pairs(data)
    return Split(*as_arrays(x, y, "data"))


def read_pairs(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Read all inputs and labels of a Dataset or DataLoader.

    Raises:
        InputError: It is neither, its entries are no pairs, or inputs differ in shape.
    """
    require(isinstance(data, (Dataset, DataLoader)) or hasattr(data, "__getitem__"),
            f"data is a {type(data).__name__}; {_EXPECTED}")  # fmt: skip
    with foreign(InputError, f"{type(data).__name__} cannot be read", _EXPECTED):
        if isinstance(data, DataLoader):
            parts = [(_array(x), _array(y)) for x, y in _batches(data)]
            x = [row for part, _ in parts for row in part]
            y = [row for _, part in parts for row in part]
        else:
            pairs = data if isinstance(data, IterableDataset) else map(data.__getitem__, _all(data))
            x, y = zip(*((_array(one), _array(label)) for one, label in pairs), strict=True)
    shapes = sorted({one.shape for one in x})
    require(len(shapes) == 1, f"inputs have the shapes {' and '.join(map(str, shapes[:2]))}; "
            "bring them to one")  # fmt: skip
    return np.stack(x), np.stack(y)


def _all(data: Any) -> range:
    return range(len(data))


def _batches(loader: DataLoader[Any]) -> Iterable[Any]:
    """Yield a loader's batches, unshuffled and to the end."""
    data, sampler = loader.dataset, loader.sampler
    if isinstance(data, IterableDataset) or loader.batch_size is None:
        yield from loader
        return
    whole = isinstance(sampler, (SequentialSampler, RandomSampler))
    rows: Any = _all(data) if whole else list(sampler)
    for at in range(0, len(rows), _AT_ONCE):
        yield loader.collate_fn([data[i] for i in rows[at : at + _AT_ONCE]])


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def as_arrays(x: np.ndarray, y: np.ndarray, what: str) -> Arrays:
    """Return images and labels as a data set has them.

    Args:
        x: (N, H, W), (N, C, H, W) or (N, H, W, C), bytes or floats in [0, 1]; or (N, d), a table
            with features in [0, 1], which becomes images of one row (N, 1, 1, d).
        y: (N,) whole numbers.
        what: Name of the data, for messages.

    Returns:
        Images, uint8 or float32 (N, C, H, W), and labels, int64 (N,).

    Raises:
        InputError: They are something else.
    """
    require(y.ndim == 1 and y.dtype.kind in "iu", f"{what}: labels are {y.dtype} {y.shape}; "
            "expected whole numbers (N,)")  # fmt: skip
    require(len(x) == len(y) > 0, f"{what}: {len(x)} images and {len(y)} labels; expected as many, "
            "and at least one")  # fmt: skip
    require(
        x.dtype.kind in "fui" and x.ndim in (2, 3, 4),
        f"{what}: images are {x.dtype} {x.shape}; expected numbers (N, C, H, W), (N, H, W, C), "
        "(N, H, W) or (N, d)",
    )
    if x.ndim == 2:
        x = x[:, None, None, :]
    elif x.ndim == 3:
        x = x[:, None]
    elif x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.dtype == np.uint8:
        images = torch.from_numpy(np.ascontiguousarray(x))
    else:
        low, high = float(x.min()), float(x.max())
        require(np.isfinite([low, high]).all(), f"{what} holds NaN or infinite values")
        require(
            0 <= low <= high <= 1,
            f"{what}: values range from {low:g} to {high:g}; expected bytes, or numbers in [0, 1]: "
            "scale them, as by (x - x.min()) / (x.max() - x.min())",
        )
        images = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    return images, torch.from_numpy(np.ascontiguousarray(y, dtype=np.int64))
