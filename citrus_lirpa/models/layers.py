"""Layers around a network: normalisation, and what makes a user's own network take images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import require

#: Channels, height and width of images.
Shape = tuple[int, int, int]


class Normalise(nn.Module):
    """Maps pixels in [0, 1] to ``(x - mean) / std``, channel by channel.

    ``BoundedNet`` applies this layer to a box itself: auto_LiRPA's CROWN fails on such constants
    where images have three channels.

    Args:
        mean: One number for each channel. It becomes a persistent buffer (C, 1, 1), so that a
            ``state_dict`` holds it; ``std`` likewise.
        std: One positive number for each channel.

    Raises:
        InputError: The lengths differ, a value is not finite, or a std is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        require(
            len(mean) == len(std) and mean,
            f"mean has {len(mean)} and std {len(std)} numbers; expected one of each per channel",
        )
        require(
            all(map(math.isfinite, (*mean, *std))) and min(std) > 0,
            f"mean {tuple(mean)} and std {tuple(std)} must be finite, and std positive",
        )
        dtype = torch.get_default_dtype()
        self.register_buffer("mean", torch.tensor(mean, dtype=dtype).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=dtype).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised images; ``x`` and the result are (B, C, H, W)."""
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        """Return what the layer's repr shows."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def leading_normalise(mean: Sequence[float], std: Sequence[float], shape: Shape) -> Normalise:
    """Make the layer that begins a network of images of a shape, with a number for each channel."""
    normalise = Normalise(mean, std)
    require(
        len(mean) == shape[0],
        f"mean and std have {len(mean)} numbers, but shape {tuple(shape)} has {shape[0]} "
        "channels; expected one number per channel",
    )
    return normalise


class Behind(nn.Sequential):
    """A user's own network, the last layer, behind layers that prepare its inputs."""


def core_of(model: nn.Module) -> nn.Module:
    """Return the module that the user made, of what ``own`` or ``build_model`` has built."""
    return core_of(model[-1]) if isinstance(model, Behind) else model
