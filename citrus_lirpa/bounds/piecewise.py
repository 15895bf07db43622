"""Piecewise linear operations written as affine ones and ReLU.

    max(a, b) = b + ReLU(a - b)          min(a, b) = b - ReLU(b - a)
    |x| = 2 ReLU(x) - x                  x below 0 times s: ReLU(x) + s (x - ReLU(x))

clamp(x, l, u) is min(max(x, l), u), and a maximum over windows is a tree of maxima of two, along
one axis after the other. The maximum of ReLUs is the ReLU of the maximum, which has fewer of them.
All factors are exact in any precision.

Curves (:mod:`.curves`) and products of two values stay, each as a function behind an affine map;
x / y is x times the reciprocal of y.

Intervals of what is written so are wider than those of the operation: a and ReLU(a - b) are
bounded as if they had nothing to do with each other. So the values of operations are knots,
whose intervals are those of the operations themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from .box import Box
from .curve_search import curves_in_parts, whole_curve
from .curve_table import power
from .curves import PRODUCT, Bend
from .graph import Graph, Operation, computed, constant_of
from .lirpa.nodes import leaky_slope
from .pieces import Divided, Hull, Joined, Piece, Relu, Scaled, Stacked, Sum, Taken, repeats, taken
from .tracing import place


class PiecewiseGraph(Graph):
    """A graph whose piecewise linear operations are written as affine ones and ReLU.

    Curves (:mod:`.curves`) and products stay, and count among its ReLUs.

    Args:
        graph: The graph of a network.
        dtype: The type of the network's numbers.

    Attributes:
        knots: By name, the values with intervals of their own: names of the operands that these
            follow from, and the intervals.
        curves: By name, those of ``relus`` that are curves or products.
        origins: Of these, what they are called in messages.
    """

    def __init__(self, graph: Graph, dtype: torch.dtype):
        self.input, self.output = graph.input, graph.output
        self.operations: dict[str, Any] = {}
        self.relus: list[str] = []
        self.curves: dict[str, Bend] = {}
        self.origins: dict[str, str] = {}
        self.knots: dict[str, tuple[tuple[str, ...], Hull]] = {}
        whole, parts = curves_in_parts(graph)
        pooled = _pooled(graph)
        for name, operation in graph.operations.items():
            if name in parts or name in pooled:
                continue
            writer = _Writer(self, operation, dtype)
            if name in whole:
                writer.bend(*whole[name], last=True)
                continue
            write = _WRITERS.get(operation.kind)
            of_one = operation.varying[:1] == [True] and not any(operation.varying[1:])
            if write is not None and (of_one or operation.kind in _OF_SEVERAL):
                write(writer)
            elif (curve := whole_curve(operation)) is not None:
                writer.bend(operation.arguments[0], curve, last=True)
            elif not (operation.kind in _PRODUCTS and _PRODUCTS[operation.kind](writer)):
                self.operations[name] = operation
                self.relus += [name] * (operation.kind == "BoundRelu")


class _Writer:
    """Writes one operation as pieces, the last of which has the operation's name.

    Attributes:
        shape: The shape of the values of the pieces to come.
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

    def bend(self, x: str, bend: Bend, *, last: bool = False) -> str:
        """Add a curve or product."""
        if x == self.graph.input:  # which no affine map ends in
            x = self.sum((1, x))
        name = self.add(Piece, x, last=last)
        self.graph.relus.append(name)
        self.graph.curves[name] = bend
        kind = self.operation.kind.removeprefix("Bound")
        self.graph.origins[name] = f"{kind}{place(self.node)}"
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


def _of_several(w: _Writer, write: Callable[..., str], function: Callable[..., Tensor]) -> None:
    value, *others = sorted(w.operation.arguments, key=w.constants.__contains__)
    for number, other in enumerate(others, 1):
        before, value = value, write(value, other, last=number == len(others))
        if other not in w.constants:  # with a constant, nothing is bounded as if it were two
            w.knot(value, lambda a, b: Box(*map(function, a, b)), before, other)


def _pooled(graph: Graph) -> set[str]:
    """Return the ReLUs that nothing but max pooling takes."""
    kinds: dict[str, set[str]] = {name: set() for name in graph.relus}
    for operation in graph.operations.values():
        for source in kinds.keys() & operation.sources:
            kinds[source].add(operation.kind)
    return {name for name, found in kinds.items() if found == {"BoundMaxPool"}} - {graph.output}


def _max_pool(w: _Writer) -> None:
    """One axis after the other, in pairs: windows that overlap share their maxima.

    Those of a ReLU's values are ReLUs of the maxima of its inputs.
    """
    (x,), shape = w.operation.arguments, list(w.node.inputs[0].output_shape[1:])
    rectified = type(w.node.inputs[0]).__name__ == "BoundRelu"
    if rectified:
        x = w.node.inputs[0].inputs[0].name
    for axis in range(len(shape) - 1, 0, -1):
        windows = _windows(w.node, axis - 1, shape[axis], w.operation.shape[axis])
        while max(map(len, windows)) > 1:
            pairs = sorted({pair for window in windows for pair in _pairs(window)})
            alone = sorted({window[-1] for window in windows if len(window) % 2})
            x = _level(w, x, axis, shape, pairs, alone)
            where = {what: k for k, what in enumerate([*pairs, *alone])}
            windows = [
                [where[what] for what in [*_pairs(window), *window[len(window) // 2 * 2 :]]]
                for window in windows
            ]
        shape[axis] = len(windows)
        w.shape = tuple(shape)
        places = tuple(window[0] for window in windows)
        x = w.add(Taken, x, axis=axis + 1, index=places, last=axis == 1 and not rectified)
    if rectified:
        w.add(Relu, x, last=True)


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


def _product(w: _Writer) -> bool:
    """Write the product of two values, or a quotient by a constant; False where it is another.

    auto_LiRPA 0.7 has the latter as a product with a rounded reciprocal.
    """
    if all(w.operation.varying):
        return _multiply(w, *w.operation.arguments)
    sources = zip(w.node.inputs, w.operation.arguments, strict=True)
    for (inverse, _), (_, x) in permutations(sources, 2):
        if type(inverse).__name__ == "BoundReciprocal" and not computed(inverse):
            (divisor,) = inverse.inputs
            w.constants[divisor.name] = constant_of(divisor)
            w.add(Divided, x, divisor.name, last=True)
            return True
    return False


def _quotient(w: _Writer) -> bool:
    """Write x / y as x times the reciprocal of y; return False for other quotients."""
    (x, y), inverse = w.operation.arguments, power(-1.0)
    shape = tuple(w.node.inputs[1].output_shape[1:])
    fits = len(shape) == len(w.operation.shape) if x not in w.constants else shape == w.shape
    if not w.operation.varying[1] or inverse is None or not fits:
        return False
    w.shape = shape
    below = w.bend(y, inverse)
    w.shape = w.operation.shape
    if x not in w.constants:
        return _multiply(w, x, below)
    w.add(Scaled, below, x, last=True)
    return True


def _multiply(w: _Writer, first: str, second: str) -> bool:
    """Write a product of values of as many axes as the operation has, else return False."""
    shape = w.operation.shape
    shapes = [tuple(source.output_shape[1:]) for source in w.node.inputs]
    if any(len(its) != len(shape) for its in shapes):
        return False
    w.shape = (2, *shape)
    pair = w.add(Stacked, first, second, repeats=repeats(shape, shapes))
    w.shape = shape
    w.bend(pair, PRODUCT, last=True)
    return True


_PRODUCTS: dict[str, Callable[[_Writer], bool]] = {"BoundMul": _product, "BoundDiv": _quotient}
_OF_SEVERAL = ("BoundMax", "BoundMin")
_WRITERS: dict[str, Callable[[_Writer], None]] = {
    "BoundAbs": _absolute,
    "BoundClip": _clamp,
    "BoundHardTanh": _clamp,
    "BoundLeakyRelu": _leaky,
    "BoundMax": lambda w: _of_several(w, w.larger, torch.maximum),
    "BoundMin": lambda w: _of_several(w, w.smaller, torch.minimum),
    "BoundMaxPool": _max_pool,
    "BoundPRelu": _leaky,
}
