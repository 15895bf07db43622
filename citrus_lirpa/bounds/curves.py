"""Curves: smooth functions of single values, by what lines above and below them must know.

On a stretch where the slope of f does not fall, f is convex: all its tangents lie below it. Where
the slope does not rise, f is concave: all its tangents lie above it. Beyond its stretches of one
kind, a curve is of the other kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .box import Box

#: What float64 may be off by in a curve's value or slope at x, for each 1 + |x|. That is 64 units
#: in the last place of 1 + |x|, where no curve exceeds 1 + |x|: exp, tanh and erf are off by less
#: than 4 of their own, and no value or slope takes more than a dozen further operations.
ERROR = 2.0**-46

#: The ends of a stretch.
Stretch = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A function f of single values with |f(x)| <= 1 + |x|.

    Attributes:
        function: f, in float64.
        slope: Its derivative; at a kink, any value between those of both sides.
        convex: Where f is convex.
        concave: Where f is concave, left to right. The first of two begins at -inf.
        steepest: Two numbers between which all slopes are.
        lowest: Where f has its minimum, before which it falls and behind which it grows; None if
            it grows everywhere.
        slack: What f as it is computed in networks may differ by from f.
    """

    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    convex: Stretch
    concave: tuple[Stretch, ...]
    steepest: tuple[float, float]
    lowest: float | None = None
    slack: float = 0.0

    def error(self, x: Tensor) -> Tensor:
        """Return what may be wrong with a value in float64, within |x|."""
        return ERROR * (1 + x) + self.slack

    def hull(self, box: Box) -> Box:
        """Return the interval of the values on an interval, in float64 and rounded outward."""
        ends = [self.function(end) for end in box]
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        if self.lowest is not None:
            bottom = torch.full_like(low, self.lowest)
            inside = (box.lower <= bottom) & (bottom <= box.upper)
            low = torch.where(inside, self.function(bottom), low)
        error = self.error(torch.maximum(*(end.abs() for end in box)))
        return Box(low - error, high + error)


def _of_sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _of_tanh(x: Tensor) -> Tensor:
    return 4 * _of_sigmoid(2 * x)


_ALL = (-math.inf, math.inf)
_LEFT, _RIGHT = (-math.inf, 0.0), (0.0, math.inf)

SIGMOID = Curve(torch.sigmoid, _of_sigmoid, _LEFT, (_RIGHT,), (0.0, 0.25))
TANH = Curve(torch.tanh, _of_tanh, _LEFT, (_RIGHT,), (0.0, 1.0))

#: torch takes x for log(1 + exp(x)) beyond 20.
SOFTPLUS = Curve(
    lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    torch.sigmoid, _ALL, (), (0.0, 1.0), slack=2.1e-9,
)  # fmt: skip


def _of_silu(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * (1 + x * torch.sigmoid(-x))


def _of_gelu(x: Tensor) -> Tensor:
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    return torch.special.ndtr(x) + x * density


def _of_tanh_gelu(x: Tensor) -> Tensor:
    scale, cube = math.sqrt(2 / math.pi), 0.044715
    inner = scale * (x + cube * x**3)
    return torch.sigmoid(2 * inner) + x / 2 * _of_tanh(inner) * scale * (1 + 3 * cube * x.square())


def _waved(
    function: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    turn: float,
    lowest: float,
) -> Curve:
    """Return a curve that is convex between its places of inflection at ±turn."""
    concave = (-math.inf, -turn), (turn, math.inf)
    return Curve(function, slope, (-turn, turn), concave, (-0.13, 1.13), lowest)


SILU = _waved(F.silu, _of_silu, 2.3993572805154677, -1.2784645427610738)
GELU = _waved(F.gelu, _of_gelu, math.sqrt(2), -0.7517915246935645)
TANH_GELU = _waved(
    lambda x: F.gelu(x, approximate="tanh"), _of_tanh_gelu, 1.4185040087908284, -0.7524614220710163
)


def elu(alpha: float) -> Curve | None:
    """Return ELU, which is convex where its slopes left of 0 are not above 1; else None."""
    if not 0 <= alpha <= 1:
        return None
    return Curve(
        lambda x: F.elu(x, alpha),
        lambda x: torch.where(x < 0, alpha * x.clamp(max=0).exp(), 1.0),
        _ALL, (), (0.0, 1.0),
    )  # fmt: skip


def _gelu_of(node: Any) -> Curve:
    return TANH_GELU if node.attr.get("approximate", "none") == "tanh" else GELU


#: The curve of each kind of node.
_CURVES: dict[str, Callable[[Any], Curve | None]] = {
    "BoundElu": lambda node: elu(node.attr["alpha"]),
    "BoundGelu": _gelu_of,
    "BoundSigmoid": lambda node: SIGMOID,
    "BoundSoftplus": lambda node: SOFTPLUS,
    "BoundTanh": lambda node: TANH,
}


def curve_of(node: Any) -> Curve | None:
    """Return the curve that a node of auto_LiRPA computes; None where it computes none."""
    make = _CURVES.get(type(node).__name__)
    return None if make is None else make(node)
