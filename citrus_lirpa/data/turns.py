"""The order of images that stand class by class: the classes take turns.

The first images, the last ones, and groups of neighbours are then of all classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def turns(labels: Tensor) -> Tensor:
    """Return how many images of the same class stand before each one, int64 (N,)."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    begins = counts.cumsum(0) - counts
    found = torch.empty_like(labels)
    found[order] = torch.arange(len(labels)) - begins[labels[order]]
    return found


def in_turns(labels: Tensor, run: int = 1) -> Tensor:
    """Return the order in which the classes take turns, with ``run`` images of a class in each."""
    return (turns(labels) // run * (1 + labels.max()) + labels).argsort(stable=True)
