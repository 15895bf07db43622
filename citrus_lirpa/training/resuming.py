"""The parts of a saved training, put back into place; CheckpointError where they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError

#: What Adam keeps of each weight.
_ADAM = {"step", "exp_avg", "exp_avg_sq"}


def restore_adam(optimiser: torch.optim.Adam, found: dict[int, Any], path: Path) -> None:
    """Adam's averages. Its options are those of ``optimiser``, which the configuration gives."""
    groups = optimiser.state_dict()["param_groups"]
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    usable = all(
        isinstance(number, int)
        and 0 <= number < len(weights)
        and isinstance(kept, dict)
        and kept.keys() == _ADAM
        and all(_fits(value, weights[number]) for value in kept.values())
        for number, kept in found.items()
    )
    if not usable:
        raise CheckpointError(f"{path} holds no state of Adam for the network it names")
    optimiser.load_state_dict({"state": found, "param_groups": groups})


def _fits(value: object, weight: Tensor) -> bool:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    return value.shape in (torch.Size(), weight.shape)


def restore_generator(device: torch.device, state: Tensor, path: Path) -> None:
    """The state of the random numbers of ``device``."""
    try:
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path} holds no state of random numbers: {error}") from error
