"""Run folders, and what a run needs before its first step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from ..bounds.net import BoundedNet
from ..errors import CheckpointError, InputError
from ..formats import atomic as files
from ..formats.locks import is_vacant, locked
from . import checkpoint
from .config import RunConfig, make_loss, resolve
from .initialisation import shi_initialise

CONFIG_FILE = "config.toml"
METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.png"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Train in ``folder`` as the only process that does; CheckpointError where another does."""
    with locked(folder, "train"):
        files.remove_leftovers(folder, CONFIG_FILE, checkpoint.FILE_NAME, METRICS_FILE, CURVES_FILE)
        yield


def start_run(folder: Path, config: RunConfig) -> None:
    """Make the run folder and write its configuration; refuse one that is in use."""
    if not is_vacant(folder):
        raise CheckpointError(
            f"{folder} exists and is not empty; resume it with --resume, or choose another --out"
        )
    files.write_text(folder / CONFIG_FILE, config.to_toml())


def resumable(folder: Path) -> RunConfig:
    """The configuration of a run folder that was begun, with or without a checkpoint yet."""
    if (folder / checkpoint.FILE_NAME).is_file():
        return checkpoint.load(folder)[0]
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise CheckpointError(
            f"{folder} is no run folder: it holds no {CONFIG_FILE}; expected a folder that "
            "citrus-lirpa train made"
        )
    return resolve(file=file)


def is_begun(folder: Path, config: RunConfig, what: str) -> bool:
    """Whether ``folder`` holds the run of ``config``, which is ``what``; False where it is empty.

    CheckpointError where it holds something else.
    """
    if is_vacant(folder):
        return False
    file, fix = folder / CONFIG_FILE, "choose another --out, or remove the folder"
    try:
        found = RunConfig.from_toml(file.read_text("utf-8"), str(file))
    except (OSError, UnicodeDecodeError, InputError) as error:
        raise CheckpointError(f"{folder} is no run folder: {error}; {fix}") from error
    if found != config:
        raise CheckpointError(
            f"{folder} is of another configuration than {what} ({_difference(found, config)}); "
            f"{fix}"
        )
    return True


def _difference(found: RunConfig, wanted: RunConfig) -> str:
    """Every key whose values differ, with both."""
    mine, other = (
        {
            f"{table}.{key}": value
            for table, values in asdict(config).items()
            for key, value in values.items()
        }
        for config in (wanted, found)
    )
    return ", ".join(
        f"{key}: {other.get(key)} there, {mine.get(key)} here"
        for key in sorted(mine.keys() | other.keys())
        if mine.get(key) != other.get(key)
    )


def build(config: RunConfig, device: torch.device) -> tuple[BoundedNet, nn.Module]:
    """Seed torch, then make the bounded network, initialised, and a loss that can use it."""
    torch.manual_seed(config.train.seed)
    model, spec = checkpoint.make_model(config)
    net = BoundedNet(model.to(device), torch.zeros(2, *spec.shape, device=device))
    if config.train.initialisation == "shi":
        shi_initialise(net)
    if config.train.compile:
        net.compile()
    loss = make_loss(config.loss, config.train)
    if callable(check := getattr(loss, "check_net", None)):
        check(net)
    return net, loss


def choose_threads(net: BoundedNet, wanted: int) -> int:
    """CPU threads to use: small networks lose by more than one (measured: up to 20 times)."""
    if wanted:
        return wanted
    parameters = sum(p.numel() for p in net.parameters())
    return 1 if parameters < 1_000_000 else torch.get_num_threads()
