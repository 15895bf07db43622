"""Operators of ONNX that are piecewise linear, or select numbers, as layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .graph import Reader, unusable

if TYPE_CHECKING:
    import onnx

Options = dict[str, Any]


class Limited(nn.Module):
    """Values no lower than ``low`` and no higher than ``high``; None for no limit."""

    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self.low, self.high = low, high

    def extra_repr(self) -> str:
        """Return what the layer's repr shows."""
        return f"{self.low}, {self.high}"

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` within the limits."""
        return x.clamp(self.low, self.high)


class Extreme(nn.Module):
    """The maximum, or minimum, of values and of a constant where there is one."""

    constant: Tensor | None

    def __init__(self, largest: bool, constant: Tensor | None) -> None:
        super().__init__()
        self.largest = largest
        self.register_buffer("constant", constant)

    def extra_repr(self) -> str:
        """Return what the layer's repr shows."""
        return f"largest={self.largest}"

    def forward(self, *values: Tensor) -> Tensor:
        """Return the maximum or minimum."""
        function = torch.maximum if self.largest else torch.minimum
        found, *others = [*values, *([] if self.constant is None else [self.constant])]
        for other in others:
            found = function(found, other)
        return found


class Sliced(nn.Module):
    """A part of each input; ``places`` of its axes without the batch."""

    def __init__(self, places: tuple[slice, ...]) -> None:
        super().__init__()
        self.places = places

    def extra_repr(self) -> str:
        """Return what the layer's repr shows."""
        return ", ".join(f"{p.start}:{p.stop}:{p.step}" for p in self.places)

    def forward(self, x: Tensor) -> Tensor:
        """Return the part."""
        return x[(slice(None), *self.places)]


class Selected(nn.Module):
    """Some places along an axis; one place, which takes the axis away, where there is no list."""

    def __init__(self, axis: int, index: int | list[int]) -> None:
        super().__init__()
        self.axis, self.index = axis, index

    def extra_repr(self) -> str:
        """Return what the layer's repr shows."""
        return f"axis={self.axis}, index={self.index}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the numbers at the places."""
        if isinstance(self.index, int):
            return x.select(self.axis, self.index)
        return x.index_select(self.axis, torch.tensor(self.index, device=x.device))


class Reduced(nn.Module):
    """The mean, or the sum, over axes."""

    def __init__(self, mean: bool, axes: tuple[int, ...], keeps: bool) -> None:
        super().__init__()
        self.mean, self.axes, self.keeps = mean, axes, keeps

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean or the sum."""
        return (x.mean if self.mean else x.sum)(self.axes, keepdim=self.keeps)


def clip(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read Clip, whose limits are numbers."""
    names = ("min", "max")
    ends = [
        float(reader.constant(node, at)) if reader.given(node, at) else options.get(name)
        for at, name in enumerate(names, 1)
    ]
    low, high = (None if end is None or math.isinf(end) else end for end in ends)
    if low is high is None:
        reader.skip(node, node.input[0])
    else:
        reader.add(node, Limited(low, high), node.input[0])


def prelu(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read PRelu with one slope, or one for each channel."""
    slope, shape = reader.constant(node, 1), reader.shapes[node.input[0]]
    sides = (1,) * (len(shape) - slope.ndim) + tuple(slope.shape)
    wanted = [(1, channels, *(1 for _ in shape[2:])) for channels in (1, shape[1])]
    if sides not in wanted:
        expected = "expected one, or one for each channel"
        raise unusable(node, f"of {shape} has slopes of shape {tuple(slope.shape)}; {expected}")
    layer = nn.PReLU(sides[1])
    layer.weight = nn.Parameter(slope.reshape(-1))
    reader.add(node, layer, node.input[0])


def extreme(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read Max or Min of values of one shape, and constants."""
    computed = [name for name in node.input if name in reader.where]
    constants = [reader.constant(node, at) for at, n in enumerate(node.input) if n not in computed]
    shape = reader.shapes[node.output[0]]
    if not computed or any(reader.shapes[name] != shape for name in computed):
        expected = "expected computed values of this shape"
        raise unusable(node, f"of {len(node.input)} inputs gives {shape}; {expected}")
    largest = node.op_type == "Max"
    constant = Extreme(largest, None)(*constants) if constants else None
    if constant is not None and constant.numel() == 1:
        limit = float(constant)
        layer: nn.Module = Limited(limit, None) if largest else Limited(None, limit)
        if len(computed) == 1:
            return reader.add(node, layer, *computed)
    reader.add(node, Extreme(largest, constant), *computed)


def part(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read Slice with positive steps."""
    shape = reader.shapes[node.input[0]]
    starts, ends, axes, steps = (
        reader.integers(node, at) if reader.given(node, at) else list(options.get(name, ()))
        for at, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    )
    places = [slice(0, side, 1) for side in shape]
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise unusable(node, f"has the step {step}; expected at least 1")
        places[axis] = slice(*slice(start, end, step).indices(shape[axis]))
    if places[0] != slice(0, 1, 1):
        raise unusable(node, "cuts the batch; expected another axis")
    reader.add(node, Sliced(tuple(places[1:])), node.input[0])


def split(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read Split, each part of which is a slice."""
    shape = reader.shapes[node.input[0]]
    axis, begin = options.get("axis", 0) % len(shape), 0
    if axis == 0:
        raise unusable(node, "cuts the batch; expected another axis")
    for number, name in enumerate(node.output):
        end = begin + reader.shapes[name][axis]
        places = [slice(0, side, 1) for side in shape[1:]]
        places[axis - 1] = slice(begin, end, 1)
        reader.add(node, Sliced(tuple(places)), node.input[0], output=number)
        begin = end


def gather(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read Gather by constant places along an axis."""
    shape = reader.shapes[node.input[0]]
    axis, places = options.get("axis", 0) % len(shape), reader.constants.get(node.input[1])
    if axis == 0 or places is None or places.dtype != np.int64 or places.ndim > 1:
        expected = "expected another axis than the batch, and a list of places in the file"
        raise unusable(node, f"along axis {axis} of {shape}; {expected}")
    index = (places % shape[axis]).tolist()
    reader.add(node, Selected(axis, index), node.input[0])


def reduction(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read ReduceMean or ReduceSum over other axes than the batch."""
    shape = reader.shapes[node.input[0]]
    given = reader.integers(node, 1) if reader.given(node, 1) else options.get("axes", ())
    axes = tuple(sorted(axis % len(shape) for axis in given))
    if not axes or axes[0] == 0:
        expected = "expected some, and not the batch"
        raise unusable(node, f"over axes {tuple(given)} of {shape}; {expected}")
    keeps, mean = bool(options.get("keepdims", 1)), node.op_type == "ReduceMean"
    layer: nn.Module = Reduced(mean, axes, keeps)
    if mean and len(shape) == 4 and axes == (2, 3):  # which bounds know as pooling
        pool = nn.AvgPool2d(shape[2:])
        layer = pool if keeps else nn.Sequential(pool, nn.Flatten())
    reader.add(node, layer, node.input[0])
