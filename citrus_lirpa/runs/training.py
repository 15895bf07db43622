"""The training of one configuration in a run folder, from its begin to its curves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
    measure_convolutions,
    use_threads,
)
from .folder import RunFolder
from .launch import Launch


def train_run(
    config: RunConfig, images: Split, folder: Path, launch: Launch, log: Iterable[str] = ()
) -> History | None:
    """Train a configuration to its end and write everything into a run folder.

    Args:
        config: What to train.
        images: The training images of its data set.
        folder: The run folder: new or empty, unless the training was begun there before.
        launch: How. The observer's ``draw`` gets the history and the ``RunFolder``.
        log: Names of ``LOGGERS`` that get the record of each epoch too.

    Returns:
        The record of each epoch; None in a process that is not the first of its job.

    Raises:
        InputError: If the configuration cannot be trained on this device or with these images.
        CheckpointError: If the folder is in use, of something else, or cannot be written.
        Interrupted: If Ctrl-C or, as Terminated, SIGTERM stopped it after saving.
        NonFiniteLossError: If the loss became infinite or NaN.
    """
    run, device, observer = RunFolder(folder), launch.device, launch.observer
    keep_freed_memory()
    measure_convolutions(device)
    check_device(config.train.precision, device)
    net, loss = build(config, device)
    part = training_part(images, config)
    check_batches(loss, part, config)
    begun = launch.continues(lambda: distributed.agreed(run.is_begun(config, "this command's")))
    if not begun:
        judged_radius(config)  # unusable maps and weights are refused before there is a folder
        warm_start(net, config)
    with run.training():
        use_threads(choose_threads(net, config.train.threads))
        if distributed.leads():
            if not begun:
                run.begin(config)
            observer.on_network(net)
            observer.on_start()
            observer.warn(short_ramp(loss, config, len(part)))
        at_chance = ChanceWatch(part.labels, config.train.epochs)
        with loggers.opened(log if distributed.leads() else (), folder, config) as noting:

            def on_epoch(record: dict[str, Any]) -> None:
                for logger in noting:
                    logger.log(record)
                observer.on_epoch(record)
                observer.warn(at_chance(record))

            more: dict[str, Any] = {"folder": folder, "progress": observer.progress}
            history = fit(net, loss, images, config, on_epoch=on_epoch, **more)
        if distributed.leads():
            observer.draw(history, run)
    return history if distributed.leads() else None
