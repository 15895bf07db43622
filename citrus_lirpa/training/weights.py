"""Weights of other programs: state dicts as PyTorch, Lightning and CTRAIN write them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, InputError, is_out_of_memory, require
from ..formats import safetensors
from . import checkpoint

#: The files that hold them.
SUFFIXES = (".pth", ".pt", ".ckpt", safetensors.SUFFIX)
#: Entries that such a file may keep the weights in, among others.
_ENTRIES = ("state_dict", "model_state_dict", "model")
#: What wrappers put before the names: DataParallel, Lightning and others, torch.compile.
_PREFIXES = ("module.", "model.", "_orig_mod.", "net.")
#: A counter of BatchNorm that does not change what a network computes; auto_LiRPA leaves it out.
_COUNTER = "num_batches_tracked"
#: What auto_LiRPA 0.7 calls the weights of its modules: by nodes, numbered in the model's order.
_NODE = re.compile(r"/(\d+)\.(param|buffer)")


def is_foreign(path: Path) -> bool:
    """Return whether a file holds weights that another program wrote, rather than this one."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    try:
        checkpoint.load(path)
    except CheckpointError:
        return True
    return False


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict; nothing but tensors and plain values is unpickled.

    Args:
        path: A file that ``torch.save`` wrote, or a safetensors file.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        InputError: The file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected weights ({', '.join(SUFFIXES)})")
    if path.suffix.lower() == safetensors.SUFFIX:
        return safetensors.tensors(path)
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen classes for files that others wrote
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"{path} is damaged, or holds more than weights ({type(error).__name__}); save them "
            "alone: torch.save(model.state_dict(), FILE)"
        ) from error
    for entry in _ENTRIES:
        if isinstance(found, dict) and isinstance(found.get(entry), dict):
            found = found[entry]
    if not (isinstance(found, dict) and found and _tensors(found)):
        raise InputError(f"{path} holds a {type(found).__name__}; expected a state dict")
    return _tensors(found)


def fit_weights(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load weights into a network, whatever wrappers have put before their names.

    Other tensors of a wrapper, such as those of a loss, are left out, with a warning.

    Args:
        module: Gets the weights.
        weights: Its parameters and buffers, perhaps behind a prefix beside others of a wrapper.
        path: Where they come from, for messages.

    Raises:
        InputError: They do not fit: some are missing, of another shape, or left over.
    """
    own = module.state_dict()
    needed = [name for name in own if not name.endswith(_COUNTER)]
    weights = _by_node(weights, needed, {name for name, _ in module.named_parameters()})
    fitting = next((w for w in _renamed(weights) if set(needed) <= w.keys()), weights)
    given = {k: value.to(own[k].dtype) if k in own else value for k, value in fitting.items()}
    counters = {k: value for k, value in own.items() if k.endswith(_COUNTER)}
    wrong = checkpoint.misfit(own, counters | given)
    require(
        not wrong,
        f"{path} does not fit the network: {wrong}; it holds {', '.join([*fitting][:3])} and so "
        "on; give the model that these weights are of, or other weights",
    )
    module.load_state_dict(counters | given)
    if fitting is not weights and (others := _beside(weights, fitting)):
        warnings.warn(
            f"{path} holds tensors that are not the network's ({', '.join(others[:3])}"
            f"{', ...' if len(others) > 3 else ''}); they are left out",
            stacklevel=2,
        )


def _tensors(values: dict[Any, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in values.items() if isinstance(value, Tensor)}


def _by_node(
    weights: dict[str, Tensor], names: list[str], parameters: set[str]
) -> dict[str, Tensor]:
    """Return weights that are numbered as nodes under the names of a model, in its order."""
    nodes = {key: found for key in weights if (found := _NODE.fullmatch(key))}
    keys = sorted(nodes, key=lambda key: int(nodes[key][1]))
    kinds = ["param" if name in parameters else "buffer" for name in names]
    if len(keys) != len(weights) or [nodes[key][2] for key in keys] != kinds:
        return weights
    return {name: weights[key] for name, key in zip(names, keys, strict=True)}


def _beside(weights: dict[str, Tensor], fitting: dict[str, Tensor]) -> list[str]:
    """Return the names of the weights that are not among those that fit."""
    taken = set(map(id, fitting.values()))
    return [name for name, value in weights.items() if id(value) not in taken]


def _renamed(weights: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the weights under their names, and without one, two and three prefixes."""
    found = [weights]
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            named = {
                k.removeprefix(prefix): v for k, v in found[-1].items() if k.startswith(prefix)
            }
            if named:
                found.append(named)
                break
    return found
