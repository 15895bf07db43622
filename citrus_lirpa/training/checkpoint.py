"""Checkpoints: a configuration and the state of its training, in a file with a checksum."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.datasets import find_spec
from ..data.types import DatasetSpec
from ..errors import CheckpointError, InputError, reason
from ..formats import safetensors as safetensors_files
from ..formats import tensors
from ..models import build_model
from . import zoo
from .config import RunConfig

_log = logging.getLogger(__name__)

FORMAT = "citrus-lirpa checkpoint 1"
FILE_NAME = "checkpoint.pt"
#: Beside it: a JSON line for each epoch.
METRICS_FILE = "metrics.jsonl"

#: What `export` writes too, and is no run.
_FOREIGN = {".onnx": "an ONNX file", ".pt2": "a program of torch.export"}


def save(path: Path, config: RunConfig, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists, dicts) with its configuration."""
    tensors.save(path, {"format": FORMAT, "config": config.to_toml(), **state})


def find(path: Path) -> Path:
    """The checkpoint file of a run folder or of ``zoo:NAME``, or ``path`` if it is a file."""
    if zoo.is_name(path):
        return zoo.find(path)
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            raise CheckpointError(f"{path} holds no {FILE_NAME}; expected a run folder")
        return path / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a run folder or a checkpoint file")
    return path


def load(path: Path) -> tuple[RunConfig, dict[str, Any]]:
    """Configuration and state of a run folder, a checkpoint or a safetensors file, which holds
    no state but the "model"; nothing is unpickled freely.

    Raises CheckpointError where there is none, or a damaged or foreign one.
    """
    path = find(path)
    if path.suffix.lower() == safetensors_files.SUFFIX:
        config, weights = safetensors_files.load(path)
        return _config(config, path), {"model": weights}
    if path.suffix.lower() in _FOREIGN:
        raise CheckpointError(
            f"{path} is {_FOREIGN[path.suffix.lower()]}, without a run's configuration; give the "
            "run, or a .safetensors file of it by citrus-lirpa export"
        )
    try:
        state = tensors.load(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; restore it from a copy, or train again") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(
            f"{path} is not a citrus-lirpa checkpoint (format {found!r}, expected '{FORMAT}')"
        )
    for key, kind in (("config", str), ("model", dict)):
        if not isinstance(state.get(key), kind):
            raise CheckpointError(f"{path} is damaged: it holds no {key}")
    _log.debug("read %s", path)
    return _config(state["config"], path), state


def _config(text: str, path: Path) -> RunConfig:
    try:
        return RunConfig.from_toml(text)
    except InputError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error


def data_spec(config: RunConfig) -> DatasetSpec:
    """The data set of the configuration as the model sees it."""
    spec, wanted = find_spec(config.data.name), config.data
    if wanted.crop:
        return spec.with_crop(wanted.crop)
    return spec if wanted.pad < 0 else replace(spec, pad=wanted.pad)


def make_model(config: RunConfig) -> tuple[nn.Module, DatasetSpec]:
    """A fresh model of the configuration, and the data set as it sees it."""
    spec = data_spec(config)
    options = {k: v for k, v in config.model.items() if k != "name"}
    model = build_model(
        config.model["name"],
        shape=spec.shape,
        classes=spec.classes,
        mean=spec.mean,
        std=spec.std,
        **options,
    )
    return model, spec


def load_model(path: Path) -> tuple[nn.Module, DatasetSpec, RunConfig]:
    """The trained model of a run folder or checkpoint, in eval mode, on the CPU."""
    config, state = load(path)
    model, spec = make_model(config)
    restore(model, state["model"], path)
    return model.eval(), spec, config


def restore(
    module: nn.Module,
    weights: dict[str, Tensor],
    path: Path,
    what: str = "the model it names",
) -> None:
    """Load the ``weights`` of ``path`` into ``module``, which is ``what``, in place.

    CheckpointError where they do not fit.
    """
    try:
        for name, own in module.state_dict().items():
            given = weights.get(name)
            if isinstance(own, Tensor) and isinstance(given, Tensor):
                if own.dtype != given.dtype:
                    raise TypeError(f"{name} is {given.dtype}, not {own.dtype}")
        module.load_state_dict(weights)
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path} does not fit {what}: {reason(error)}") from error


def restore_adam(optimiser: torch.optim.Adam, averages: dict[int, Any], path: Path) -> None:
    """Restore Adam's averages, in place; its options are those that the configuration gives.

    Args:
        optimiser: Of the weights of the network.
        averages: What Adam keeps, by the number of the weight.
        path: Where they come from.

    Raises:
        CheckpointError: If they do not fit the weights.
    """
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    try:
        for number, kept in averages.items():
            shapes = {name: value.shape for name, value in kept.items()}
            shape = weights[number].shape
            if shapes != {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}:
                raise TypeError(f"those of weight {number} are of another shape")
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": averages, "param_groups": groups})
    except (AttributeError, IndexError, TypeError) as error:
        raise CheckpointError(f"{path} holds no averages of Adam that fit: {error}") from error


def restore_generator(device: torch.device, state: Tensor, path: Path) -> None:
    """Restore the random numbers of a device.

    Raises:
        CheckpointError: If ``state`` is none.
    """
    try:
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path} holds no state of random numbers: {error}") from error
