"""Nodes for operations that auto_LiRPA does not know: piecewise linear ones and curves.

They compute values and intervals. Linear bounds of them are this package's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import ModelError
from ..box import Box
from ..curve_table import curve_of
from ..curves import Curve


def register(operators: Any, table: dict[str, Any]) -> None:
    """Add what is missing to auto_LiRPA's table of operations; entries of the user's stay."""
    if hasattr(operators, "BoundHardTanh"):  # 0.7's clamp, which wants both limits
        operators.BoundHardTanh.forward = lambda _, *values: _clip(*values)
    if hasattr(operators, "BoundGelu"):  # 0.7's intervals always contain its minimum
        own = _curve_node(operators.Bound, operators.Interval, "Gelu")
        for method in ("forward", "interval_propagate"):
            setattr(operators.BoundGelu, method, getattr(own, method))
    for name, function in _FUNCTIONS.items():
        if not hasattr(operators, f"Bound{name}"):
            made = _node(operators.Bound, operators.Interval, name, function)
            table.setdefault(f"onnx::{name}", made)
    for name in _CURVES:
        if not hasattr(operators, f"Bound{name}"):
            made = _curve_node(operators.Bound, operators.Interval, name)
            table.setdefault(f"onnx::{name}", made)


def _node(base: Any, interval: Any, name: str, function: Callable[..., Tensor]) -> type:
    """Return a class of nodes of a function that grows with its arguments, or of PRelu."""

    def forward(self: Any, *values: Tensor) -> Tensor:
        return function(*values)

    def interval_propagate(self: Any, *intervals: Sequence[Tensor]) -> Any:
        lower, upper = ([ends[side] for ends in intervals] for side in (0, 1))
        ends = [function(*lower), function(*upper)]
        if name == "PRelu":  # which is not monotone where the slope is negative
            inside = (lower[0] < 0) & (upper[0] > 0)
            kink = torch.where(inside, 0, ends[0])
            ends = [f(f(*ends), kink) for f in (torch.minimum, torch.maximum)]
        perturbed = next((i for i in intervals if getattr(i, "ptb", None) is not None), None)
        return interval.make_interval(*ends, perturbed)

    return _class_of(base, name, forward, interval_propagate)


def _curve_node(base: Any, interval: Any, name: str) -> type:
    """Return a class of nodes of a curve."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return _FORWARD[name](x, self.attr) if name in _FORWARD else _known(self).function(x)

    def interval_propagate(self: Any, box: Sequence[Tensor]) -> Any:
        known, ends = _known(self), [forward(self, end) for end in box[:2]]
        lower, upper = torch.minimum(*ends), torch.maximum(*ends)
        if known.drop is not None:  # where a curve jumps down, it does not grow
            ends = [known.function(end) for end in box[:2]]
            lower, upper = ends[0] - known.drop(Box(*box[:2])), ends[1]
        if known.lowest is not None:
            inside = (box[0] < known.lowest) & (known.lowest < box[1])
            bottom = forward(self, torch.full_like(lower, known.lowest))
            lower = torch.where(inside, torch.minimum(lower, bottom), lower)
        perturbed = box if getattr(box, "ptb", None) is not None else None
        return interval.make_interval(lower, upper, perturbed)

    return _class_of(base, name, forward, interval_propagate)


def _known(node: Any) -> Curve:
    curve = curve_of(node)
    if curve is None:
        raise ModelError(f"{type(node).__name__} is no curve with attributes {node.attr}")
    return curve


def _class_of(
    base: Any, name: str, forward: Callable[..., Any], interval_propagate: Callable[..., Any]
) -> type:
    """Return a class of nodes with these methods."""

    def infer_batch_dim(self: Any, batch_size: int, *batch_dims: int) -> int:
        return max(batch_dims)

    methods = {
        "forward": forward,
        "interval_propagate": interval_propagate,
        "infer_batch_dim": infer_batch_dim,
    }
    return type(f"Bound{name}", (base,), methods)


def _gelu(x: Tensor, attributes: dict[str, Any]) -> Tensor:
    return F.gelu(x, approximate=attributes.get("approximate", "none"))


#: How values are computed where a layer of torch differs from its curve.
_FORWARD: dict[str, Callable[[Tensor, dict[str, Any]], Tensor]] = {
    "Gelu": _gelu,
    "SoftplusOf": lambda x, a: F.softplus(x, a["beta"], a["threshold"]),
}
#: Curves that auto_LiRPA has no nodes for, at least in one version.
_CURVES = (
    *("Celu", "Elu", "Gelu", "HardSwish", "LogSigmoid", "Mish", "Selu", "SoftplusOf"),
    "Softsign",
)


def _clip(x: Tensor, *ends: Tensor) -> Tensor:
    low, high = (*(end if end.numel() else None for end in ends), None, None)[:2]
    return x if low is high is None else x.clamp(low, high)


def _several(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def fold(first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = function(first, other)
        return first

    return fold


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "Clip": _clip,
    "PRelu": lambda x, slope: torch.where(x > 0, x, slope * x),
    "Max": _several(torch.maximum),
    "Min": _several(torch.minimum),
}
