"""Run folders, and what a run needs before its first step."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from . import checkpoint, files
from .bounds import BoundedNet
from .config import RunConfig, make_loss, resolve
from .errors import CheckpointError
from .initialisation import shi_initialise

CONFIG_FILE = "config.toml"


def start_run(folder: Path, config: RunConfig) -> None:
    """Make the run folder and write its configuration; refuse one that is in use."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
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
        raise CheckpointError(f"{folder} is no run folder: it holds no {CONFIG_FILE}")
    return resolve(file=file)


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
