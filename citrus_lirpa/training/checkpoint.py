"""Checkpoints: a configuration and the state of its training, in a file with a checksum."""

from __future__ import annotations

import logging
import pickle  # for the name of its error  # nosec B403
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.datasets import find_spec
from ..data.types import DatasetSpec
from ..errors import CheckpointError, InputError, reason, require
from ..formats import safetensors, tensors
from ..formats.atomic import write_text
from ..models import MODELS, PLAIN, build_model
from . import zoo
from .config import RunConfig

_log = logging.getLogger(__name__)

FORMAT = "citrus-lirpa checkpoint 1"
FILE_NAME = "checkpoint.pt"
#: Beside it: the configuration, and a JSON line for each epoch.
CONFIG_FILE, METRICS_FILE = "config.toml", "metrics.jsonl"

#: How many names a message lists.
_NAMED = 3
#: Files that `export` writes and that are not runs.
_FOREIGN = {".onnx": "an ONNX file", ".pt2": "a program of torch.export"}


def save(path: Path, config: RunConfig, state: dict[str, Any]) -> None:
    """Write the state of a training with its configuration.

    Args:
        path: The file, which appears once it is whole.
        config: What is trained.
        state: Tensors, numbers, strings, and lists and dicts of them.

    Raises:
        CheckpointError: If the file cannot be written.
    """
    tensors.save(path, {"format": FORMAT, "config": config.to_toml(), **state})


def describe(folder: Path, config: RunConfig) -> None:
    """Write the configuration of a training into its folder, unless one is there."""
    if not (file := folder / CONFIG_FILE).exists():
        write_text(file, config.to_toml())


def find(path: Path) -> Path:
    """Find the checkpoint of a run folder or of ``zoo:NAME``; a file is taken as it is.

    Raises:
        CheckpointError: If there is none.
        InputError: If the zoo has no such network.
    """
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
    """Read a checkpoint; only tensors and plain values are unpickled.

    Args:
        path: A run folder, a checkpoint, ``zoo:NAME`` or a safetensors file.

    Returns:
        The configuration and the state; of a safetensors file only its "model".

    Raises:
        CheckpointError: If there is none, or it is damaged or not of this package.
    """
    path = find(path)
    if path.suffix.lower() == safetensors.SUFFIX:
        config, weights = safetensors.load(path)
        return _config(config, path), {"model": weights}
    if path.suffix.lower() in _FOREIGN:
        raise CheckpointError(
            f"{path} is {_FOREIGN[path.suffix.lower()]}, without a run's configuration; give the "
            "run, or a .safetensors file of it by citrus-lirpa export"
        )
    try:
        state = tensors.load(path)
    except CheckpointError as error:
        advice = "restore it from a copy, or train again"
        if isinstance(error.__cause__, pickle.UnpicklingError):
            advice = (
                "of a network of your own, save the weights alone, torch.save(model.state_dict(), "
                "FILE), and name it: --model FILE.py:NAME"
            )
        raise CheckpointError(f"{error}; {advice}") from error
    found = state.get("format") if isinstance(state, dict) else type(state).__name__
    if found != FORMAT:
        raise CheckpointError(
            f"{path} is not a citrus-lirpa checkpoint (format {found!r}, expected '{FORMAT}'); if "
            "it holds weights of your own network, name that: --model FILE.py:NAME"
        )
    if not (isinstance(state.get("config"), str) and isinstance(state.get("model"), dict)):
        raise CheckpointError(f"{path} is damaged: it holds no configuration or no model")
    _log.debug("read %s", path)
    return _config(state["config"], path), state


def _config(text: str, path: Path) -> RunConfig:
    try:
        return RunConfig.from_toml(text)
    except InputError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error


def data_spec(config: RunConfig) -> DatasetSpec:
    """Return the data set of a configuration as the model sees it, cropped or padded."""
    spec, wanted = find_spec(config.data.name, config.data.sha256), config.data
    if wanted.crop:
        return spec.with_crop(wanted.crop)
    return spec if wanted.pad < 0 else replace(spec, pad=wanted.pad)


def make_model(config: RunConfig) -> tuple[nn.Module, DatasetSpec]:
    """Make the model of a configuration with new weights, and its ``data_spec``."""
    spec = data_spec(config)
    options = {k: v for k, v in config.model.items() if k != "name"}
    if config.model["name"] in PLAIN:
        return MODELS[config.model["name"]](spec.shape, spec.classes, **options), spec
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
    """Read the trained model of what ``load`` takes.

    Returns:
        The model in eval mode on the CPU, its data set, and the configuration.

    Raises:
        CheckpointError: If there is no usable checkpoint.
        InputError: If it is of a denoiser.
    """
    config, state = load(path)
    require(
        not config.denoises,
        f"{path} is a denoiser, which answers with no classes; put it in front of a network: "
        f"citrus-lirpa smooth RUN --denoiser {path}",
    )
    return *restored(config, state, path), config


def restored(config: RunConfig, state: dict[str, Any], path: Path) -> tuple[nn.Module, DatasetSpec]:
    """Make the trained model of what ``load`` returned.

    Args:
        config: The configuration.
        state: The state.
        path: Where they come from, for messages.

    Returns:
        The model in eval mode on the CPU, and its data set.

    Raises:
        CheckpointError: The weights do not fit.
        InputError: The model or the data set cannot be made here.
    """
    model, spec = make_model(config)
    restore(model, state["model"], path)
    return model.eval(), spec


def restore(
    module: nn.Module,
    weights: dict[str, Tensor],
    path: Path,
    what: str = "the model it names",
) -> None:
    """Load weights into a module, in place.

    Args:
        module: Gets the weights.
        weights: All its parameters and buffers.
        path: Where they come from, for the message.
        what: Name of the module in the message.

    Raises:
        CheckpointError: If they do not fit.
    """
    wrong = misfit(module.state_dict(), weights)
    require(not wrong, f"{path} does not fit {what}: {wrong}", CheckpointError)
    try:
        module.load_state_dict(weights)
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path} does not fit {what}: {reason(error)}") from error


def misfit(own: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Say in what a state differs from a module's own; empty where it fits.

    Args:
        own: The ``state_dict`` of the module.
        given: The state that it is to have.
    """

    def kind(value: object) -> str:
        if isinstance(value, Tensor):
            return f"{tuple(value.shape)} {value.dtype}"
        return type(value).__name__

    differences = {
        "it lacks": [name for name in own if name not in given],
        "it has in addition": [str(name) for name in given if name not in own],
        "of another kind are": [
            f"{name} {kind(value)} (there {kind(given[name])})"
            for name, value in own.items()
            if name in given and kind(value) != kind(given[name])
        ],
    }
    return "; ".join(f"{what} {_listed(names)}" for what, names in differences.items() if names)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


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
