"""Further places that a training reports to: TensorBoard, Weights & Biases.

To add one, write a class with the two methods of ``Logger`` and a line in ``LOGGERS``. All of
them get the record of each epoch, as metrics.jsonl does, and nothing of the machine or its user.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from ..errors import InputError
from ..imports import import_optional
from .config import RunConfig

Record = dict[str, Any]


class Logger(Protocol):
    """A receiver of the record of each epoch (see ``History``)."""

    def log(self, record: Record) -> None:
        """Take the record of an epoch."""

    def close(self) -> None:
        """Take note that there are no more records."""


class TensorBoard:
    """Scalars over epochs, as events in a folder "tensorboard" of the run folder.

    Args:
        folder: The run folder.
        config: The configuration of the training.
    """

    def __init__(self, folder: Path, config: RunConfig):
        package = import_optional(
            "torch.utils.tensorboard", "pip install 'citrus-lirpa[tensorboard]'"
        )
        self.writer = package.SummaryWriter(str(folder / "tensorboard"))

    def log(self, record: Record) -> None:
        """Plot the values of an epoch."""
        for key, value in _scalars(record).items():
            self.writer.add_scalar(key, value, record["epoch"])
        self.writer.flush()

    def close(self) -> None:
        """End the events."""
        self.writer.close()


class WeightsAndBiases:
    """Scalars over epochs and the configuration, as a run of the project "citrus-lirpa".

    W&B decides (by ``WANDB_MODE``) whether to send them or to keep them in a folder "wandb" of
    the run folder. It does not record the command line, the environment, the terminal, code, git,
    packages or hardware.

    Args:
        folder: The run folder, whose name the run gets.
        config: The configuration of the training.

    Raises:
        InputError: It cannot be started, as without a login.
    """

    def __init__(self, folder: Path, config: RunConfig):
        wandb = import_optional("wandb", "pip install 'citrus-lirpa[wandb]'")
        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        try:
            self.run = wandb.init(
                project="citrus-lirpa",
                name=folder.name,
                dir=str(folder),
                config=dataclasses.asdict(config),
                settings=settings,
            )
        except wandb.errors.Error as error:
            raise InputError(
                f"Weights & Biases cannot be started: {error}; log in with 'wandb login', or keep "
                "the run on this machine: WANDB_MODE=offline"
            ) from error

    def log(self, record: Record) -> None:
        """Plot the values of an epoch."""
        self.run.log(_scalars(record), step=record["epoch"])

    def close(self) -> None:
        """End the run."""
        self.run.finish()


LOGGERS: dict[str, Callable[[Path, RunConfig], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


@contextmanager
def opened(
    names: Iterable[str], folder: Path, config: RunConfig
) -> Iterator[Callable[[Record], None]]:
    """Open loggers, and close them at the end of the block.

    Args:
        names: Names of ``LOGGERS``.
        folder: The run folder.
        config: The configuration of the training.

    Yields:
        A function that gives a record to each of them.

    Raises:
        DependencyError: One of them is not installed.
        InputError: One of them cannot be started.
    """
    with ExitStack() as stack:
        active = []
        for name in dict.fromkeys(names):
            active.append(LOGGERS[name](folder, config))
            stack.callback(active[-1].close)

        def log(record: Record) -> None:
            for logger in active:
                logger.log(record)

        yield log


def _scalars(record: Record) -> dict[str, float]:
    """Select what is plotted over epochs; None stands for what the loss does not have."""
    return {k: v for k, v in record.items() if k not in ("epoch", "step") and v is not None}
