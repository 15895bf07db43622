"""Data sets as whole tensors of bytes, and what a training loop draws from them."""

from .arrays import as_split
from .augmentation import augment, batches, centre_crop
from .datasets import DATASETS, find_datasets, find_spec, load
from .types import DatasetSpec, Split, divide

__all__ = [
    "DATASETS", "DatasetSpec", "Split", "as_split", "augment", "batches", "centre_crop",
    "divide", "find_datasets", "find_spec", "load",
]  # fmt: skip
