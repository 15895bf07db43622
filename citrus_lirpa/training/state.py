"""The state of a training, and its way to a checkpoint and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..bounds.net import BoundedNet
from ..errors import CheckpointError, require
from ..formats import atomic, schema
from . import checkpoint
from .config import RunConfig
from .epochs import Epoch
from .metrics import EpochMeans, History


@dataclass(frozen=True)
class _Optimiser:
    state: dict[Any, Any]


@dataclass(frozen=True)
class _Saved:
    """What a checkpoint holds of a training, beside the weights."""

    loss: dict[str, Any]
    optimiser: _Optimiser
    rng: dict[str, Any]
    step: schema.Count
    sums: dict[str, schema.Number]
    seconds: schema.NonNegative
    history: tuple[Epoch, ...]
    finished: schema.Flag


@dataclass
class TrainingState:
    """Everything that a training changes, beside torch's random numbers.

    Args:
        net: The network.
        loss: The loss, which may keep perturbations.
        optimiser: Adam, over the weights of the network.
        step: Number of steps that are made.
        epoch: Means of the epoch so far.
        history: The records of the epochs that ended.
        finished: Whether nothing is left to do.
    """

    net: BoundedNet
    loss: nn.Module
    optimiser: torch.optim.Adam
    step: int = 0
    epoch: EpochMeans = field(init=False)
    history: History = field(default_factory=History)
    finished: bool = False

    def __post_init__(self) -> None:
        self.epoch = EpochMeans(self.device)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.net.parameters()[0].device

    def save(self, folder: Path, config: RunConfig) -> None:
        """Write the checkpoint of a run folder, and its metrics."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        checkpoint.save(
            folder / checkpoint.FILE_NAME,
            config,
            {
                "model": self.net.module.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "loss": self.loss.state_dict(),
                "rng": rng,
                "step": self.step,
                "sums": self.epoch.sums(),
                "seconds": self.epoch.seconds,
                "history": self.history.records,
                "finished": self.finished,
            },
        )
        self.save_metrics(folder)

    def save_metrics(self, folder: Path) -> None:
        """Write the records of the epochs that ended, unless the file holds just them."""
        lines = "".join(json.dumps(record) + "\n" for record in self.history.records)
        file = folder / checkpoint.METRICS_FILE
        if not file.exists() or file.read_bytes() != lines.encode():
            atomic.write_text(file, lines)

    def restore(self, folder: Path, config: RunConfig) -> None:
        """Read the checkpoint of a run folder.

        Raises:
            CheckpointError: It is of another training, or damaged.
        """
        begun, state = checkpoint.load(folder)
        name, wanted = begun.loss["name"], config.loss["name"]
        message = f"{folder} was begun with loss.name '{name}', not '{wanted}'"
        require(name == wanted, message, CheckpointError)
        checkpoint.restore(self.net.module, state["model"], folder)
        saved = schema.read(_Saved, state, folder / checkpoint.FILE_NAME, "train again")
        checkpoint.restore(self.loss, state["loss"], folder, "the loss of the run")
        checkpoint.restore_adam(self.optimiser, state["optimiser"]["state"], folder)
        rng: Any = saved.rng
        checkpoint.restore_generator(torch.device("cpu"), rng.get("cpu"), folder)
        if self.device.type == "cuda" and "cuda" in rng:
            checkpoint.restore_generator(self.device, rng["cuda"], folder)
        self.step, self.finished = saved.step, saved.finished
        self.epoch = EpochMeans(self.device, saved.sums, saved.seconds)
        self.history.records = state["history"]
