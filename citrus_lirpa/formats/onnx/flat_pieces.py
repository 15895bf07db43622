"""Piecewise linear operators of ONNX, of tensors that are affine functions of vectors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .affine_value import AffineValue
from .graph import kind, unusable
from .places import windows_of

if TYPE_CHECKING:
    import onnx

#: Applies one of ``flat_network.FUNCTIONS`` to values: ``apply(name, *values)``.
Apply = Callable[..., AffineValue]
#: Values that an operator takes; None for one that is left out.
Taken = Sequence[Any]
#: Attributes by name.
Options = Mapping[str, Any]

#: Most numbers in all windows of a pooling, and in what it pads.
_MOST_NUMBERS = 2**22


def _clip(apply: Apply, node: onnx.NodeProto, taken: Taken, options: Options) -> AffineValue:
    """Limits are inputs, or attributes in older files."""
    value, low, high = (*taken, None, None)[:3]
    for limit, name, function in ((low, "min", "Max"), (high, "max", "Min")):
        if limit is None and name in options:
            limit = AffineValue(np.array(options[name], dtype=np.float64), {})
        if limit is not None:
            value = apply(function, value, limit)
    return value


def _extreme(apply: Apply, node: onnx.NodeProto, taken: Taken, options: Options) -> AffineValue:
    value, *others = taken
    for other in others:
        value = apply(kind(node), value, other)
    return value


def _leaky(apply: Apply, node: onnx.NodeProto, taken: Taken, options: Options) -> AffineValue:
    """Below 0 its value is slope · x: slope · x + (1 - slope) · ReLU(x)."""
    x, slope = taken[0], np.array(options.get("alpha", 0.01), dtype=np.float64)
    if len(taken) > 1:
        if taken[1].varies:
            raise unusable(node, "has slopes that are computed")
        slope = taken[1].constant
    return x.times(slope).plus(apply("Relu", x).times(1 - slope))


def _max_pool(apply: Apply, node: onnx.NodeProto, taken: Taken, options: Options) -> AffineValue:
    """Maxima of two, then of two of these: each of as many numbers as there are windows."""
    if len(node.output) > 1:
        raise unusable(node, "gives places as well")
    (x,) = taken
    kernel = options["kernel_shape"]
    axes = windows_of(node, options, x.shape[2:])
    windows = math.prod((*x.shape[:2], *(axis.count for axis in axes)))
    padded = math.prod((*x.shape[:2], *(axis.padded for axis in axes)))
    size = max(windows * math.prod(kernel), padded)
    if windows < 1 or size > _MOST_NUMBERS:
        raise unusable(node, "is too large")
    places = np.pad(
        np.arange(x.constant.size).reshape(x.shape),
        [(0, 0), (0, 0), *((axis.before, axis.after) for axis in axes)],
        constant_values=-1,
    )
    every = [[axis.every(i) for i in range(k)] for axis, k in zip(axes, kernel, strict=True)]
    whole = slice(None)
    table = np.stack([places[(whole, whole, *offset)] for offset in itertools.product(*every)])
    present = table.max(0)  # a place in each window, which stands for those of its padding
    if (present < 0).any():
        raise unusable(node, "has windows of padding alone")
    values = [x.taken(np.where(index < 0, present, index)) for index in table]
    while len(values) > 1:
        pairs = zip(values[::2], values[1::2], strict=False)
        rest = values[len(values) // 2 * 2 :]
        values = [apply("Max", *pair) for pair in pairs] + rest
    return values[0]


#: How each operator is read.
PIECES: dict[str, Callable[[Apply, Any, Taken, Options], AffineValue]] = {
    "Abs": lambda apply, node, taken, options: apply("Abs", taken[0]),
    "Clip": _clip,
    "LeakyRelu": _leaky,
    "Max": _extreme,
    "MaxPool": _max_pool,
    "Min": _extreme,
    "PRelu": _leaky,
}
