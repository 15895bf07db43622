"""Piecewise linear operations written as affine ones and ReLU.

    max(a, b) = b + ReLU(a - b)          min(a, b) = b - ReLU(b - a)
    |x| = 2 ReLU(x) - x                  x below 0 times s: ReLU(x) + s (x - ReLU(x))

clamp(x, l, u) is min(max(x, l), u), and a maximum over windows is a tree of maxima of two, along
one axis after the other. All factors are exact in any precision.

Intervals of what is written so are wider than those of the operation: a and ReLU(a - b) are
bounded as if they had nothing to do with each other. So the values of operations are knots,
whose intervals are those of the operations themselves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from .box import Box
from .curves import SILU, Curve, curve_of
from .graph import Graph, Operation
from .lirpa_nodes import leaky_slope
from .pieces import Hull, Joined, Piece, Relu, Scaled, Sum, Taken, taken


class PiecewiseGraph(Graph):
    """A graph whose piecewise linear operations are written as affine ones and ReLU.

    Curves (:mod:`.curves`) stay, and count among its ReLUs.

    Args:
        graph: The graph of a network.
        dtype: The type of the network's numbers.

    Attributes:
        knots: By name, the values with intervals of their own: names of the operands that these
            follow from, and the intervals.
        curves: By name, those of ``relus`` that are curves.
    """

    def __init__(self, graph: Graph, dtype: torch.dtype):
        self.input, self.output = graph.input, graph.output
        self.operations: dict[str, Any] = {}
        self.relus: list[str] = []
        self.curves: dict[str, Curve] = {}
        self.knots: dict[str, tuple[tuple[str, ...], Hull]] = {}
        gated, gates = _gated(graph)
        for name, operation in graph.operations.items():
            if name in gates:
                continue
            if name in gated:
                self.operations[name] = Piece(name, [gated[name]], operation.shape)
                self.relus.append(name)
                self.curves[name] = SILU
                continue
            write = _WRITERS.get(operation.kind)
            of_one = operation.varying[:1] == [True] and not any(operation.varying[1:])
            if write is not None and (of_one or operation.kind in _OF_SEVERAL):
                write(_Writer(self, operation, dtype))
                continue
            self.operations[name] = operation
            curve = curve_of(operation.node)
            if curve is not None:
                self.curves[name] = curve
            if curve is not None or operation.kind == "BoundRelu":
                self.relus.append(name)


def _gated(graph: Graph) -> tuple[dict[str, str], set[str]]:
    """Return what SiLUs, x sigmoid(x), are of by their names, and sigmoids used in them alone."""
    gated, inside = {}, Counter[str]()
    for name, operation in graph.operations.items():
        if operation.kind == "BoundMul" and all(operation.varying):
            for x, gate in (operation.arguments, operation.arguments[::-1]):
                found = graph.operations.get(gate)
                if found is not None and (found.kind, found.arguments) == ("BoundSigmoid", [x]):
                    gated[name] = x
                    inside[gate] += 1
    uses = Counter(
        source for operation in graph.operations.values() for source in operation.sources
    )
    return gated, {gate for gate, count in inside.items() if count == uses[gate]}


class _Writer:
    """Writes one operation as pieces, the last of which has the operation's name.

    Attributes:
        shape: Of the values of the pieces to come.
        constants: The operation's constants by name, and the numbers that were made.
    """

    def __init__(self, graph: PiecewiseGraph, operation: Operation, dtype: torch.dtype):
        self.graph, self.operation, self.node, self.dtype = graph, operation, operation.node, dtype
        self.shape, self.constants = operation.shape, operation.constants()
        self._count = 0

    def add(self, kind: type[Piece], *arguments: str, last: bool = False, **options: Any) -> str:
        """Add a piece; return its name, which is the operation's for the last one."""
        self._count += 1
        name = self.operation.name if last else f"{self.operation.name}:{self._count}"
        constants = {a: self.constants[a] for a in arguments if a in self.constants}
        piece = kind(name, arguments, self.shape, constants)
        vars(piece).update(options)
        self.graph.operations[name] = piece
        if kind is Relu:
            self.graph.relus.append(name)
        return name

    def sum(self, *parts: tuple[int, str], last: bool = False) -> str:
        """Add a sum of values times factors."""
        factors, names = zip(*parts, strict=True)
        return self.add(Sum, *names, factors=factors, last=last)

    def larger(self, a: str, b: str, *, last: bool = False) -> str:
        """Add the maximum of two values, of which b may be a constant."""
        over = self.add(Relu, self.sum((1, a), (-1, b)))
        return self.sum((1, b), (1, over), last=last)

    def smaller(self, a: str, b: str, *, last: bool = False) -> str:
        """Add the minimum of two values, of which b may be a constant."""
        under = self.add(Relu, self.sum((1, b), (-1, a)))
        return self.sum((1, b), (-1, under), last=last)

    def number(self, value: float) -> str:
        """Return the name of a number as a constant."""
        name = f"{self.operation.name}={value}"
        self.constants[name] = torch.tensor(value, dtype=self.dtype)
        return name

    def knot(self, name: str, hull: Hull, *operands: str) -> None:
        """Note the interval of a value."""
        self.graph.knots[name] = operands, hull


# -- how each operation is written -----------------------------------------------------------


def _absolute(w: _Writer) -> None:
    (x,) = w.operation.arguments
    w.knot(w.sum((2, w.add(Relu, x)), (-1, x), last=True), _hull_of_absolute, x)


def _hull_of_absolute(box: Box) -> Box:
    lower, upper = box
    return Box(torch.maximum(lower, -upper).relu(), torch.maximum(-lower, upper))


def _leaky(w: _Writer) -> None:
    x, *slopes = w.operation.arguments
    node, (slope, *_) = w.node, [*slopes, ""]
    if not slope:
        slope = w.number(leaky_slope(node))
    factor, above = w.constants[slope].detach(), w.add(Relu, x)
    below = w.add(Scaled, w.sum((1, x), (-1, above)), slope)
    whole = w.sum((1, above), (1, below), last=True)
    w.knot(whole, lambda box: _hull_of_leaky(box, factor), x)


def _hull_of_leaky(box: Box, slope: Tensor) -> Box:
    ends = [torch.where(end > 0, end, end * slope.to(end)) for end in box]
    bend = torch.where((box.lower < 0) & (box.upper > 0), 0.0, ends[0])
    values = torch.stack([*ends, bend])
    lower, upper = values.amin(0), values.amax(0)
    infinity = torch.full_like(lower, math.inf)
    return Box(torch.nextafter(lower, -infinity), torch.nextafter(upper, infinity))


def _clamp(w: _Writer) -> None:
    x, low, high = (*w.operation.arguments, "", "")[:3]
    ends = (w.constants.get(end) for end in (low, high))
    has_low, has_high = (end is not None and end.numel() > 0 for end in ends)
    if has_low:
        x = w.larger(x, low, last=not has_high)
    if has_high:
        w.smaller(x, high, last=True)


def _maximum(w: _Writer) -> None:
    _of_several(w, w.larger, torch.maximum)


def _minimum(w: _Writer) -> None:
    _of_several(w, w.smaller, torch.minimum)


def _of_several(w: _Writer, write: Callable[..., str], function: Callable[..., Tensor]) -> None:
    value, *others = sorted(w.operation.arguments, key=w.constants.__contains__)
    for number, other in enumerate(others, 1):
        before, value = value, write(value, other, last=number == len(others))
        if other not in w.constants:  # with a constant, nothing is bounded as if it were two
            w.knot(value, lambda a, b: Box(*map(function, a, b)), before, other)


def _max_pool(w: _Writer) -> None:
    """One axis after the other, in pairs: windows that overlap share their maxima."""
    (x,), shape = w.operation.arguments, list(w.node.inputs[0].output_shape[1:])
    for axis in range(len(shape) - 1, 0, -1):
        windows = _windows(w.node, axis - 1, shape[axis], w.operation.shape[axis])
        while max(map(len, windows)) > 1:
            pairs = sorted({pair for window in windows for pair in _pairs(window)})
            alone = sorted({window[-1] for window in windows if len(window) % 2})
            x = _level(w, x, axis, shape, pairs, alone)
            place = {what: k for k, what in enumerate([*pairs, *alone])}
            windows = [
                [place[what] for what in [*_pairs(window), *window[len(window) // 2 * 2 :]]]
                for window in windows
            ]
        shape[axis] = len(windows)
        w.shape = tuple(shape)
        places = tuple(window[0] for window in windows)
        x = w.add(Taken, x, axis=axis + 1, index=places, last=axis == 1)


def _level(
    w: _Writer, x: str, axis: int, shape: list[int], pairs: list[tuple[int, int]], alone: list[int]
) -> str:
    """Write the maxima of pairs of places along an axis, and behind them other places."""
    first, second = zip(*pairs, strict=True)

    def take(index: tuple[int, ...]) -> str:
        shape[axis] = len(index)
        w.shape = tuple(shape)
        return w.add(Taken, x, axis=axis + 1, index=index)

    value = w.larger(take(first), take(second))

    def hull(box: Box) -> Box:
        return Box(*(torch.maximum(*(taken(e, axis + 1, i) for i in (first, second))) for e in box))

    w.knot(value, hull, x)
    if alone:
        others = take(tuple(alone))
        shape[axis] = len(pairs) + len(alone)
        w.shape = tuple(shape)
        value = w.add(Joined, value, others, axis=axis + 1)
    return value


def _pairs(window: list[int]) -> list[tuple[int, int]]:
    return list(zip(window[::2], window[1::2], strict=False))


def _windows(node: Any, axis: int, size: int, count: int) -> list[list[int]]:
    """Return the places in each window of a pooling along an axis; padding is in none."""
    kernel, stride, pad = node.kernel_size[axis], node.stride[axis], node.padding[axis]
    step = node.dilation[axis]
    starts = range(-pad, count * stride - pad, stride)
    windows = [[p for p in range(s, s + step * kernel, step) if 0 <= p < size] for s in starts]
    if not all(windows):
        raise ModelError(
            "a max pooling has windows of padding alone, whose maximum is -inf; use less padding"
        )
    return windows


_OF_SEVERAL = ("BoundMax", "BoundMin")
_WRITERS: dict[str, Callable[[_Writer], None]] = {
    "BoundAbs": _absolute,
    "BoundClip": _clamp,
    "BoundHardTanh": _clamp,
    "BoundLeakyRelu": _leaky,
    "BoundMax": _maximum,
    "BoundMin": _minimum,
    "BoundMaxPool": _max_pool,
    "BoundPRelu": _leaky,
}
