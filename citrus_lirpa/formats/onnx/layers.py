"""Layers that ONNX operators become where torch has none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def with_weights(layer: Any, weight: Tensor, bias: Tensor | None) -> Any:
    """Give a layer its weight and, where there is one, its bias; return it."""
    layer.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.contiguous())
    return layer


class Branches(nn.Module):
    """Layers that form no chain.

    Layer i takes the values ``sources[i]``, where 0 is the input and k the output of layer k - 1;
    the output of the last layer is the result.
    """

    def __init__(self, layers: list[nn.Module], sources: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.sources = sources

    def extra_repr(self) -> str:
        """Return what the layer's repr shows."""
        return f"sources={self.sources}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, K) of images ``x`` (N, C, H, W)."""
        values = [x]
        for layer, sources in zip(self.layers, self.sources, strict=True):
            values.append(layer(*(values[i] for i in sources)))
        return values[-1]


class Affine(nn.Module):
    """``x * scale + shift`` with constants of the shape of one input; None leaves a part out."""

    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, scale: Tensor | None, shift: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x * scale + shift``."""
        x = x if self.scale is None else x * self.scale
        return x if self.shift is None else x + self.shift


class Sum(nn.Module):
    """The sum of two computed values, where a residual connection ends, or their difference."""

    def __init__(self, sign: int = 1) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the sum, or the difference for sign -1."""
        return a + b if self.sign > 0 else a - b


class Concat(nn.Module):
    """Computed values one after the other along an axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *values: Tensor) -> Tensor:
        """Return the values as one."""
        return torch.cat(values, self.axis)


class Permute(nn.Module):
    """The axes in another order, the batch first."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with its axes in this order."""
        return x.permute(self.order)


class Shaped(nn.Module):
    """The values of each input in another shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` as (N, *shape)."""
        return x.reshape(-1, *self.shape)
