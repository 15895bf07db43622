"""CROWN's lines of the neurons of a layer, as tables of places that windows are looked up in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...bounds.windows import channels_last
from .relaxation import Bent
from .rounding import downward
from .tangents import Curved


class LayerLines(NamedTuple):
    """Lines of the neurons of a layer: slopes, values at zero, and gaps, each (n·H·W + 1, C).

    Places are numbered through all images; the last one, of zeros, stands for all places outside.
    """

    low: Tensor
    below: Tensor
    up: Tensor
    above: Tensor
    gap: Tensor

    @staticmethod
    def of(
        lower: Tensor,
        upper: Tensor,
        neurons: Bent | None,
        constant: Tensor,
        charge: Tensor,
        tiny: float,
        dtype: torch.dtype,
    ) -> LayerLines:
        """Return the lines of a layer.

        Args:
            lower: (n, ...) lower bounds of its inputs.
            upper: (n, ...) likewise.
            neurons: Those of a curve, within these bounds; None for ReLU.
            constant: (1, H, W, C) what is added to its inputs, in float64.
            charge: (n, H, W, C) what rounding can make of a coefficient 1 on them.
            tiny: What share of itself rounding can make of a product.
            dtype: The type that the lines are used in.
        """
        shape = lower.shape
        lower, upper = (channels_last(end.double()) for end in (lower, upper))
        if isinstance(neurons, Curved):
            low, m, up, n = (channels_last(part) for part in _of_curve(neurons, shape, dtype))
        else:
            low, m, up, n = _of_relus(lower, upper, dtype)
        below = low.double() * constant + m - low.abs() * charge - tiny * m.abs()
        above = up.double() * constant + n + up.abs() * charge + tiny * n.abs()
        below, above = downward(below, dtype), -downward(-above, dtype)
        gap = torch.maximum(torch.minimum(-lower, upper).clamp(min=0), n)  # n: up is rounded
        gap = gap + 2 * charge + tiny * (m.abs() + n.abs() + below.abs() + above.abs())
        gap = -downward(-gap, dtype)
        return LayerLines(*map(table, (low, below, up, above, gap)))


def _of_curve(
    neurons: Curved, shape: torch.Size, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return slope and value at zero, in float64, of CROWN's lines below and above."""
    lines = neurons.crown(dtype)
    slope, offset = (part.view(2, *shape) for part in (lines.slope, lines.offset))
    return slope[0], offset[0], slope[1], offset[1]


def _of_relus(
    lower: Tensor, upper: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the same of ReLUs."""
    free, active = (lower < 0) & (upper > 0), (lower >= 0) & (upper > 0)
    low = torch.where(free, upper > -lower, active).to(dtype)
    up = torch.where(free, upper / (upper - lower), active.double()).to(dtype)
    above = torch.maximum(-up.double() * lower, upper - up.double() * upper)
    return low, torch.zeros_like(lower), up, torch.where(free, above, 0.0)


def table(values: Tensor) -> Tensor:
    """Return the places of maps (n, H, W, C) one below the other, and a last one of zeros."""
    places = values.flatten(0, 2)
    return torch.cat([places, torch.zeros_like(places[:1])])
