"""The training loop.

``build`` seeds torch's global generator and ``fit`` draws from it, so that the two, called
one after the other, are a function of configuration and data alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import distributed
from ..bounds.checks import check_labels, check_within
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.precision import check_device, float32_products
from ..data.arrays import as_split
from ..data.types import Split
from ..errors import CheckpointError, InputError, require
from ..models import core_of
from . import checkpoint, zoo
from .batches import check_batches, training_part
from .config import RunConfig
from .interrupts import stop_requests
from .metrics import History
from .trainer import OnEpoch, Trainer, learning_rate
from .weights import fit_weights, is_foreign, read_weights

__all__ = ["History", "check_batches", "fit", "learning_rate", "training_part", "warm_start"]


def warm_start(net: BoundedNet, config: RunConfig) -> None:
    """Give ``net`` the weights of ``train.init_from``, if there is one.

    Raises:
        InputError: It does not exist, or its weights do not fit.
        CheckpointError: It is damaged, or no checkpoint.
    """
    if config.train.init_from:
        source = Path(config.train.init_from)
        require(source.exists() or zoo.is_name(source), f"{source} does not exist; expected a run, "
                "a checkpoint, weights or zoo:NAME")  # fmt: skip
        if is_foreign(source):
            fit_weights(core_of(net.module), read_weights(source), source)
            return
        there, state = checkpoint.load(source)
        mine, other = (f"{c.model['name']} for {c.data.name}" for c in (config, there))
        what = f"the network to be trained ({mine}; there {other})"
        try:
            checkpoint.restore(net.module, state["model"], source, what)
        except CheckpointError as error:
            raise InputError(f"{error}; begin with a run of the same model and images") from error


def fit(
    net: BoundedNet,
    loss: nn.Module,
    data: Any,
    config: RunConfig,
    *,
    folder: str | Path | None = None,
    progress: bool = False,
    on_epoch: OnEpoch | None = None,
) -> History:
    """Train ``net`` in place to the end of ``config``, resuming ``folder`` if it was begun.

    It saves a JSON line of metrics for each epoch, and a checkpoint after every epoch and every
    five minutes; where epochs are so short that this would take more than 2 % of the time, several
    share one. On the CPU, a run that was interrupted and resumed ends with the very weights of one
    that was not.

    Processes that came together (:mod:`.distributed`) share each batch: each takes its rows,
    pairs inputs among them and has BatchNorm statistics of its own. Gradients, running
    statistics and metrics are averaged every step. Where the loss is a mean over inputs and
    partners lie within the rows, and without BatchNorm, the weights are those of one process up
    to rounding. Only the first process writes and calls ``on_epoch``.

    Args:
        net: The network.
        loss: ``loss(net, x, y, eps)`` returns :class:`LossTerms`.
        data: Images of the training set: a Split, (images, labels) as arrays or tensors, a Dataset
            or a DataLoader; see :func:`~citrus_lirpa.data.as_split`.
        config: The configuration of the training.
        folder: The run folder to save to and to resume from; None to save nothing.
        progress: Show a progress bar.
        on_epoch: Function that gets the record of each epoch when it ends.

    Returns:
        The record of each epoch.

    Raises:
        InputError: The data or the batches cannot be used, or ``folder`` would name another
            network than this one.
        CheckpointError: ``folder`` holds something else than this training.
        Interrupted: Ctrl-C stopped the training, or, as Terminated, SIGTERM; it was saved.
        NonFiniteLossError: The loss or its gradient became infinite or NaN; the last good
            checkpoint is kept.
    """
    net = as_bounded_net(net)
    data = training_part(as_split(data), config)
    if folder is not None:
        folder = Path(folder)
        _check_described(net, config)
    check_batches(loss, data, config)
    if net.parameters()[0].is_cuda:
        _check_values(net, loss, data)
    trainer = Trainer(net, loss, data, config, folder)
    if not trainer.resume():
        warm_start(net, config)
        if folder is not None and distributed.leads():
            checkpoint.describe(folder, config)
    distributed.copy_from_leader([*net.parameters(), *net.module.buffers()])
    with stop_requests() as stop, _precision(net, config.train.precision):
        trainer.run(stop, progress, on_epoch or (lambda record: None))
    return trainer.state.history


def _check_values(net: BoundedNet, loss: nn.Module, data: Split) -> None:
    """Check once what steps on a GPU do not look at: labels, and pixels that are no bytes."""
    check_labels(data.labels, net.classes)
    if data.images.is_floating_point():
        finite = bool(data.images.isfinite().all())
        require(finite, "images hold NaN or infinite values; expected finite inputs")
        check_within(data.images, getattr(loss, "clip", None))


def _check_described(net: BoundedNet, config: RunConfig) -> None:
    """Refuse a network that later commands would not make of the configuration in the folder."""
    with torch.random.fork_rng(devices=[]):
        described = checkpoint.make_model(config)[0].state_dict()
    mine = net.module.state_dict()
    same = described.keys() == mine.keys() and all(
        described[name].shape == weight.shape for name, weight in mine.items()
    )
    require(
        same,
        f"the network is not the model '{config.model['name']}' of its configuration, by which "
        "later commands find it; name it there: config.named(config.resolve(..., "
        "overrides=['model.name=own', 'model.source=FILE.py:NAME']))",
    )


@contextlib.contextmanager
def _precision(net: BoundedNet, name: str) -> Iterator[None]:
    """Compute in the precision ``name`` inside the block."""
    check_device(name, net.parameters()[0].device)
    before = net.attack_dtype
    net.attack_dtype = None if name == "float32" else torch.bfloat16
    try:
        with float32_products(tf32=name == "tf32"):
            yield
    finally:
        net.attack_dtype = before
