"""The curves: where each is convex and concave, and which nodes of a graph compute it.

docs/soundness.md has the reason for every row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .box import Box
from .curves import ERROR, Curve, Domain, Stretch, Unit

Stretches = tuple[Stretch, ...]
_ALL: Stretch = (-math.inf, math.inf)
_LEFT, _RIGHT = (-math.inf, 0.0), (0.0, math.inf)
#: Values that are off by some units in their own last place.
_OF_VALUE = Unit(0.0, 0.0)

# -- curves of sigmoids ----------------------------------------------------------------------


def _of_sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.sigmoid(-x)


def _of_tanh(x: Tensor) -> Tensor:
    return 4 * _of_sigmoid(2 * x)


SIGMOID = Curve(torch.sigmoid, _of_sigmoid, (_LEFT,), (_RIGHT,), (0.0, 0.25))
TANH = Curve(torch.tanh, _of_tanh, (_LEFT,), (_RIGHT,), (0.0, 1.0))
SOFTSIGN = Curve(
    F.softsign, lambda x: (1 + x.abs()) ** -2, (_LEFT,), (_RIGHT,), (0.0, 1.0), unit=Unit(1.0, 0.0)
)
LOG_SIGMOID = Curve(F.logsigmoid, lambda x: torch.sigmoid(-x), (), (_ALL,), (0.0, 1.0))


@functools.cache
def softplus(beta: float = 1.0, threshold: float = 20.0) -> Curve | None:
    """Return log(1 + exp(βx)) / β, for which torch takes x where βx is beyond a threshold."""
    if not beta > 0:
        return None

    def drop(box: Box) -> Tensor:
        """Return the most that x is below it on an interval, where torch takes x."""
        begin = (beta * box.lower).clamp(min=threshold)
        most = 1.01 / beta * torch.log1p((-begin).exp())
        return torch.where(beta * box.upper * (1 + ERROR) < threshold, 0.0, most)

    return Curve(
        lambda x: torch.logaddexp(beta * x, torch.zeros_like(x)) / beta,
        lambda x: torch.sigmoid(beta * x),
        (_ALL,), (), (0.0, 1.0),
        drop=drop,
        unit=Unit(1 + 1 / beta, 1.0),
    )  # fmt: skip


# -- curves that are straight at both ends ---------------------------------------------------


def _waved(
    function: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    turns: Stretch,
    lowest: float,
    steepest: Stretch = (-0.13, 1.13),
) -> Curve:
    """Return a curve that is convex between two places, and concave beyond."""
    concave = (-math.inf, turns[0]), (turns[1], math.inf)
    return Curve(function, slope, (turns,), concave, steepest, lowest)


def _of_silu(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * (1 + x * torch.sigmoid(-x))


def _of_gelu(x: Tensor) -> Tensor:
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    return torch.special.ndtr(x) + x * density


def _of_tanh_gelu(x: Tensor) -> Tensor:
    scale, cube = math.sqrt(2 / math.pi), 0.044715
    inner = scale * (x + cube * x**3)
    return torch.sigmoid(2 * inner) + x / 2 * _of_tanh(inner) * scale * (1 + 3 * cube * x.square())


def _of_mish(x: Tensor) -> Tensor:
    inner = torch.tanh(F.softplus(x))
    return inner + x * _of_tanh(F.softplus(x)) * torch.sigmoid(x)


def _of_hard_swish(x: Tensor) -> Tensor:
    """At ±3 the slope between them, which lies beyond that outside: tangents there are sound."""
    return torch.where(x.abs() <= 3, (2 * x + 3) / 6, (x > 0).to(x))


def _inflection(place: float) -> Stretch:
    return -place, place


SILU = _waved(F.silu, _of_silu, _inflection(2.3993572805154677), -1.2784645427610738)
GELU = _waved(F.gelu, _of_gelu, _inflection(math.sqrt(2)), -0.7517915246935645)
TANH_GELU = _waved(
    lambda x: F.gelu(x, approximate="tanh"),
    _of_tanh_gelu, _inflection(1.4185040087908284), -0.7524614220710163,
)  # fmt: skip
MISH = _waved(
    F.mish, _of_mish, (-2.2563763963607931, 1.4905711794854284), -1.1924312145154952, (-0.12, 1.1)
)
HARD_SWISH = _waved(F.hardswish, _of_hard_swish, _inflection(3.0), -1.5, (-0.5, 1.5))

# -- curves with exp below 0 -----------------------------------------------------------------


@functools.cache
def elu(alpha: float = 1.0, scale: float = 1.0) -> Curve:
    """Return scale times ELU, a straight line from 0 on."""
    left = alpha * scale

    def slope(x: Tensor) -> Tensor:
        """Return the slope; at 0 that of the left."""
        return torch.where(x <= 0, left * x.clamp(max=0).exp(), scale)

    convex: Stretches = (_ALL,)
    concave: Stretches = ()
    if not 0 <= alpha <= 1:
        convex, concave = ((_LEFT,), (_RIGHT,)) if alpha > 0 else ((_RIGHT,), (_LEFT,))
    ends = min(left, 0.0), max(left, scale)
    lowest = 0.0 if alpha < 0 else None
    unit = Unit(1 + abs(left), scale)
    return Curve(lambda x: scale * F.elu(x, alpha), slope, convex, concave, ends, lowest, unit=unit)


SELU = elu(1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@functools.cache
def celu(alpha: float = 1.0) -> Curve | None:
    """Return CELU, x or alpha (exp(x / alpha) - 1), which is smooth."""
    if not alpha > 0:
        return None
    return Curve(
        lambda x: F.celu(x, alpha),
        lambda x: (x.clamp(max=0) / alpha).exp(),
        (_ALL,), (), (0.0, 1.0),
        unit=Unit(1 + alpha, 1.0),
    )  # fmt: skip


# -- powers, exp and log ---------------------------------------------------------------------

_POSITIVE = Domain(
    lambda box: box.lower > 0, "above 0", "add a positive number, or write x.clamp(min=1e-6)"
)
_NOT_NEGATIVE = Domain(lambda box: box.lower >= 0, "at least 0", "write x.relu()")
_NOT_ZERO = Domain(
    lambda box: (box.lower > 0) | (box.upper < 0),
    "on one side of 0", "add a number, or write x.clamp(min=1e-6)",
)  # fmt: skip

EXP = Curve(torch.exp, torch.exp, (_ALL,), (), (0.0, math.inf), unit=_OF_VALUE)
LOG = Curve(
    torch.log, torch.reciprocal, (), (_RIGHT,), (0.0, math.inf),
    unit=Unit(1.0, 0.0), domain=_POSITIVE,
)  # fmt: skip


@functools.cache
def power(exponent: float) -> Curve | None:
    """Return x to a power."""
    if not math.isfinite(exponent) or exponent in (0.0, 1.0):
        return None
    even = exponent % 2 == 0
    convex: Stretches = (_RIGHT,)
    concave: Stretches = ()
    domain: Domain | None = None if exponent > 0 else _NOT_ZERO
    if even:
        convex = (_ALL,) if exponent > 0 else (_LEFT, _RIGHT)
    elif exponent.is_integer():
        concave = (_LEFT,)
    else:
        domain = _NOT_NEGATIVE if exponent > 1 else _POSITIVE
        if 0 < exponent < 1:
            convex, concave = concave, convex
    grows = exponent > 0 and not even
    steepest = (0.0, math.inf) if grows else _ALL
    return Curve(
        _power(exponent), lambda x: exponent * _power(exponent - 1)(x), convex, concave, steepest,
        lowest=0.0 if even and exponent > 0 else None, unit=_OF_VALUE, domain=domain,
    )  # fmt: skip


def _power(exponent: float) -> Callable[[Tensor], Tensor]:
    """Return x to a power, by the functions that torch has for it."""
    known = {1.0: lambda x: x, 0.5: torch.sqrt, -1.0: torch.reciprocal, 2.0: torch.square}
    return known.get(exponent, lambda x: x**exponent)


# -- nodes -----------------------------------------------------------------------------------

#: Attributes of a node.
Attributes = Mapping[str, Any]


def _gelu(attributes: Attributes) -> Curve:
    return TANH_GELU if attributes.get("approximate", "none") == "tanh" else GELU


def _powered(attributes: Attributes, exponent: Any = None) -> Curve | None:
    one = isinstance(exponent, Tensor) and exponent.numel() == 1
    return power(float(exponent)) if one else None


#: The curve of each kind of node, by its attributes and then the constants that it takes.
CURVES: dict[str, Callable[..., Curve | None]] = {
    "Celu": lambda a: celu(a["alpha"]),
    "Elu": lambda a: elu(a["alpha"]),
    "Exp": lambda a: EXP,
    "Gelu": _gelu,
    "HardSwish": lambda a: HARD_SWISH,
    "Log": lambda a: LOG,
    "LogSigmoid": lambda a: LOG_SIGMOID,
    "Mish": lambda a: MISH,
    "Pow": _powered,
    "Reciprocal": lambda a: power(-1.0),
    "Selu": lambda a: SELU,
    "Sigmoid": lambda a: SIGMOID,
    "Softplus": lambda a: softplus(),
    "SoftplusOf": lambda a: softplus(a["beta"], a["threshold"]),
    "Softsign": lambda a: SOFTSIGN,
    "Sqr": lambda a: power(2.0),
    "Sqrt": lambda a: power(0.5),
    "Tanh": lambda a: TANH,
}


def curve_of(node: Any, *constants: Any) -> Curve | None:
    """Return the curve that a node of auto_LiRPA computes; None where it computes none.

    ``constants`` are what it takes beside the value that the curve is of.
    """
    make = CURVES.get(type(node).__name__.removeprefix("Bound"))
    return None if make is None else make(getattr(node, "attr", None) or {}, *constants)
