"""The running statistics of BatchNorm, and their mean over a whole training set."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..bounds.net import BoundedNet
from ..bounds.tracing import modes_restored
from ..data.augmentation import centre_crop
from ..data.types import DatasetSpec, Split

_LARGEST_BATCH = 250


def running_statistics(module: nn.Module) -> list[Tensor]:
    """List the running means and variances of all BatchNorm layers, which stay the layers'."""
    both = [value for m in _norms(module) for value in (m.running_mean, m.running_var)]
    return [value for value in both if value is not None]  # None: the layer has no statistics


@torch.no_grad()
def precise_batchnorm(net: BoundedNet, data: Split, spec: DatasetSpec) -> None:
    """Replace BatchNorm's running statistics by their mean over the training set, in place.

    The mean is over equal batches of at most 250 images, in order. Statistics of five inputs at
    a time, as in the paper's batches, are too noisy for an evaluation. Every layer keeps its
    training mode.

    Args:
        net: The network.
        data: The images that it was trained on.
        spec: Their data set, which says how they are cropped.
    """
    norms = _norms(net.module)
    if not norms:
        return
    momenta = [m.momentum for m in norms]
    device = net.parameters()[0].device
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # cumulative average
    batches = torch.arange(len(data)).tensor_split(-(-len(data) // _LARGEST_BATCH))
    with modes_restored(net.module):
        net.module.train()
        for rows in batches:
            net.module(centre_crop(data.pixels(rows), spec).to(device))
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


def _norms(module: nn.Module) -> list[_BatchNorm]:
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]
