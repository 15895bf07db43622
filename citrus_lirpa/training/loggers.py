"""Where else a training run may report to: TensorBoard, Weights & Biases.

A new one is a class with the two methods of ``Logger`` and a line in ``LOGGERS``. All get the
record of each epoch that metrics.jsonl gets, and nothing else of the machine or its user.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from ..errors import InputError
from ..optional import import_optional
from .config import RunConfig

Record = dict[str, Any]


class Logger(Protocol):
    """Takes the record of each epoch (see ``History``), then is closed once."""

    def log(self, record: Record) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Scalars over epochs, as events in ``folder``/tensorboard."""

    def __init__(self, folder: Path, config: RunConfig):
        package = import_optional(
            "torch.utils.tensorboard", "pip install 'citrus-lirpa[tensorboard]'"
        )
        self.writer = package.SummaryWriter(str(folder / "tensorboard"))

    def log(self, record: Record) -> None:
        for key, value in _scalars(record).items():
            self.writer.add_scalar(key, value, record["epoch"])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """Scalars over epochs and the configuration, as a run of the project "citrus-lirpa".

    Whether they are sent or kept in ``folder``/wandb is W&B's to decide (``WANDB_MODE``). Not
    recorded: the command line, the environment, the terminal, code, git, packages and hardware.
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
        self.run.log(_scalars(record), step=record["epoch"])

    def close(self) -> None:
        self.run.finish()


LOGGERS: dict[str, Callable[[Path, RunConfig], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


@contextmanager
def opened(
    names: Iterable[str], folder: Path, config: RunConfig
) -> Iterator[Callable[[Record], None]]:
    """A function that gives a record to each of the ``names`` of LOGGERS; closed at the end.

    Raises DependencyError where one is not installed, InputError where it cannot be started.
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
    """What is plotted over epochs; None stands for what the loss does not have."""
    return {k: v for k, v in record.items() if k not in ("epoch", "step") and v is not None}
