"""The training of one configuration in a run folder, from its begin to its curves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .. import distributed
from ..bounds.precision import check_device
from ..data.types import Split
from ..training import loggers
from ..training.advice import ChanceWatch, short_ramp
from ..training.batches import check_batches, training_part
from ..training.config import RunConfig
from ..training.loop import fit, warm_start
from ..training.metrics import History
from ..training.setup import (
    build,
    choose_threads,
    judged_radius,
    keep_freed_memory,
    use_threads,
)
from .folder import RunFolder
from .observer import Observer


def train_run(
    config: RunConfig,
    images: Split,
    folder: Path,
    *,
    device: torch.device,
    resume: bool = False,
    requeue: bool = False,
    log: Iterable[str] = (),
    observer: Observer | None = None,
) -> History | None:
    """Train a configuration to its end and write everything into a run folder.

    Args:
        config: What to train.
        images: The training images of its data set.
        folder: The run folder: new or empty, unless the training was begun there before.
        device: Where to train.
        resume: Whether to continue the training that was begun in ``folder``.
        requeue: Whether to begin or to continue, as the folder is found.
        log: Names of ``LOGGERS`` that get the record of each epoch too.
        observer: What to call meanwhile; ``draw`` gets the history and the ``RunFolder``.

    Returns:
        The record of each epoch; None in a process that is not the first of its job.

    Raises:
        InputError: If the configuration cannot be trained on this device or with these images.
        CheckpointError: If the folder is in use, of something else, or cannot be written.
        Interrupted: If Ctrl-C or, as Terminated, SIGTERM stopped it after saving.
        NonFiniteLossError: If the loss became infinite or NaN.
    """
    observer = observer or Observer()
    run = RunFolder(folder)
    keep_freed_memory()
    check_device(config.train.precision, device)
    net, loss = build(config, device)
    part = training_part(images, config)
    check_batches(loss, part, config)
    begun = resume or (requeue and distributed.agreed(run.is_begun(config, "this command's")))
    if not begun:
        judged_radius(config)  # unusable maps and weights are refused before there is a folder
        warm_start(net, config)
    with run.training():
        if distributed.leads() and not begun:
            run.begin(config)
        use_threads(choose_threads(net, config.train.threads))
        if distributed.leads():
            observer.on_network(net)
            observer.on_start()
            if warning := short_ramp(loss, config, len(part)):
                observer.on_warning(warning)
        at_chance = ChanceWatch(part.labels, config.train.epochs)
        with loggers.opened(log if distributed.leads() else (), folder, config) as note:

            def on_epoch(record: dict[str, Any]) -> None:
                note(record)
                observer.on_epoch(record)
                if warning := at_chance(record):
                    observer.on_warning(warning)

            progress = observer.progress
            history = fit(
                net, loss, images, config, folder=folder, progress=progress, on_epoch=on_epoch
            )
        if not distributed.leads():
            return None
        observer.draw(history, run)
    return history
