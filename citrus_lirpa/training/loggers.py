"""Further places that trainings and evaluations report to: TensorBoard, Weights & Biases.

To add one, write a class with the methods of ``Logger`` and a line in ``LOGGERS``. All of them get
the record of each epoch, as metrics.jsonl does, and the figures of an evaluation, and nothing of
the machine or its user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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

    def conclude(self, figures: Mapping[str, float]) -> None:
        """Take the figures of an evaluation, by names such as ``eval-bab/ucert``."""

    def close(self) -> None:
        """Take note that there are no more records."""


class TensorBoard:
    """Scalars over epochs, as events in a folder "tensorboard" of the run folder.

    Args:
        folder: The run folder.
        config: The configuration of the training.
    """

    def __init__(self, folder: Path, config: RunConfig | None):
        package = import_optional(
            "torch.utils.tensorboard", "pip install 'citrus-lirpa[tensorboard]'"
        )
        self.writer = package.SummaryWriter(str(folder / "tensorboard"))

    def log(self, record: Record) -> None:
        """Plot the values of an epoch."""
        for key, value in _scalars(record).items():
            self.writer.add_scalar(key, value, record["epoch"])
        self.writer.flush()

    def conclude(self, figures: Mapping[str, float]) -> None:
        """Add the figures of an evaluation, without an epoch."""
        for key, value in figures.items():
            self.writer.add_scalar(key, value)

    def close(self) -> None:
        """End the events."""
        self.writer.close()


class WeightsAndBiases:
    """Scalars over epochs and the configuration, as a run of the project "citrus-lirpa".

    An evaluation, or a training that continues, goes to the run that the training has begun, whose
    name at W&B is kept in the file "wandb/run-id".

    W&B decides (by ``WANDB_MODE``) whether to send them or to keep them in a folder "wandb" of
    the run folder. It does not record the command line, the environment, the terminal, code, git,
    packages or hardware.

    Args:
        folder: The run folder, whose name the run gets.
        config: The configuration of the training, None where there was none.

    Raises:
        InputError: It cannot be started, as without a login.
    """

    def __init__(self, folder: Path, config: RunConfig | None):
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
        known = folder / "wandb" / "run-id"
        try:
            self.run = wandb.init(
                project="citrus-lirpa",
                name=folder.name,
                id=known.read_text("utf-8") if known.is_file() else None,
                resume="allow",
                dir=str(folder),
                config=None if config is None else config.tables(),
                settings=settings,
            )
        except wandb.errors.Error as error:
            raise InputError(
                f"Weights & Biases cannot be started: {error}; log in with 'wandb login', or keep "
                "the run on this machine: WANDB_MODE=offline"
            ) from error
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text(self.run.id, "utf-8")

    def log(self, record: Record) -> None:
        """Plot the values of an epoch."""
        self.run.log(_scalars(record), step=record["epoch"])

    def conclude(self, figures: Mapping[str, float]) -> None:
        """Put the figures of an evaluation into the run's summary, which tables of runs show."""
        self.run.summary.update(dict(figures))

    def close(self) -> None:
        """End the run."""
        self.run.finish()


LOGGERS: dict[str, Callable[[Path, RunConfig | None], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


@contextmanager
def opened(names: Iterable[str], folder: Path, config: RunConfig | None) -> Iterator[list[Logger]]:
    """Open loggers, and close them at the end of the block.

    Args:
        names: Names of ``LOGGERS``.
        folder: The run folder.
        config: The configuration of the training, None where there was none.

    Yields:
        Each of them, once.

    Raises:
        DependencyError: One of them is not installed.
        InputError: One of them cannot be started.
    """
    with ExitStack() as stack:
        active = []
        for name in dict.fromkeys(names):
            active.append(LOGGERS[name](folder, config))
            stack.callback(active[-1].close)
        yield active


def figures_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Select what loggers get of the record of an evaluation."""
    bounds = record["uap_accuracy"]
    figures = {
        "standard_accuracy": record["standard_accuracy"],
        "certified_accuracy": record["certified_accuracy"],
        "ucert": bounds["certified"],
        "uap_accuracy": bounds["attacked"],
    }
    return {f"eval-{record['method']}/{name}": value for name, value in figures.items()}


def _scalars(record: Record) -> dict[str, float]:
    """Select what is plotted over epochs; None stands for what the loss does not have."""
    return {k: v for k, v in record.items() if k not in ("epoch", "step") and v is not None}
