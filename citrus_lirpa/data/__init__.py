"""Data sets as whole tensors of bytes, and what a training loop draws from them."""

from .augmentation import augment, batches, centre_crop
from .datasets import DATASETS, find_datasets, find_spec, load
from .types import DatasetSpec, Split, check_split, divide

__all__ = [
    "DATASETS", "DatasetSpec", "Split", "augment", "batches", "centre_crop", "check_split",
    "divide", "find_datasets", "find_spec", "load",
]  # fmt: skip
