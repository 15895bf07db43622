"""The state of a training, and its way to a checkpoint and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..bounds.net import BoundedNet
from ..errors import CheckpointError
from ..formats import atomic
from ..formats.records import Record
from . import checkpoint
from .config import RunConfig
from .metrics import EpochMeans, History


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
    epoch: EpochMeans = field(default_factory=EpochMeans)
    history: History = field(default_factory=History)
    finished: bool = False

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.net.parameters()[0].device

    def save(self, folder: Path, config: RunConfig) -> None:
        """Write the checkpoint and the metrics of a run folder."""
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
                "sums": self.epoch.sums,
                "seconds": self.epoch.seconds,
                "history": self.history.records,
                "finished": self.finished,
            },
        )
        lines = "".join(json.dumps(record) + "\n" for record in self.history.records)
        atomic.write_text(folder / checkpoint.METRICS_FILE, lines)

    def restore(self, folder: Path, config: RunConfig) -> None:
        """Read the checkpoint of a run folder.

        Raises:
            CheckpointError: It is of another training, or damaged.
        """
        begun, state = checkpoint.load(folder)
        name, wanted = begun.loss["name"], config.loss["name"]
        if name != wanted:
            raise CheckpointError(f"{folder} was begun with loss.name '{name}', not '{wanted}'")
        checkpoint.restore(self.net.module, state["model"], folder)
        record = Record(folder / checkpoint.FILE_NAME, state, "train again")
        loss = record.entry("loss", expected="a table or {}")
        checkpoint.restore(self.loss, loss, folder, "the loss of the run")
        averages = record.entry("optimiser", "state", expected="a table or {}")
        checkpoint.restore_adam(self.optimiser, averages, folder)
        rng = record.entry("rng", expected="a table")
        checkpoint.restore_generator(torch.device("cpu"), rng.get("cpu"), folder)
        if self.device.type == "cuda" and "cuda" in rng:
            checkpoint.restore_generator(self.device, rng["cuda"], folder)
        self.step = record.entry("step", expected="a whole number >= 0")
        self.epoch = EpochMeans(
            record.entry("sums", expected="a table of numbers"),
            record.entry("seconds", expected="a number >= 0"),
        )
        self.history.records = record.entry("history", expected="a list of epochs")
        self.finished = record.entry("finished", expected="true or false")
