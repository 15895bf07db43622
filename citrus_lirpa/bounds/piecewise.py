"""Piecewise linear operations written as affine ones and ReLU.

    max(a, b) = b + ReLU(a - b)          min(a, b) = b - ReLU(b - a)
    |x| = 2 ReLU(x) - x                  x below 0 times s: ReLU(x) + s (x - ReLU(x))

clamp(x, l, u) is min(max(x, l), u), and a maximum over windows is a tree of maxima of two
(:mod:`.max_pooling`). All factors are exact in any precision.

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

import torch
from torch import Tensor

from .box import Box
from .curve_search import curves_in_parts, whole_curve
from .curve_table import power
from .curves import PRODUCT
from .graph import Graph, computed, constant_of
from .lirpa.nodes import leaky_slope
from .max_pooling import relus_to_pool, write_max_pool
from .pieces import Divided, Relu, Scaled, Stacked, repeats
from .writer import Writer, Written


class PiecewiseGraph(Written):
    """A graph whose piecewise linear operations are written as affine ones and ReLU.

    Curves (:mod:`.curves`) and products stay, and count among its ReLUs.

    Args:
        graph: The graph of a network.
        dtype: The type of the network's numbers.
    """

    def __init__(self, graph: Graph, dtype: torch.dtype):
        super().__init__(graph)
        whole, parts = curves_in_parts(graph)
        pooled = relus_to_pool(graph)
        for name, operation in graph.operations.items():
            if name in parts or name in pooled:
                continue
            writer = Writer(self, operation, dtype)
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


# -- how each operation is written -----------------------------------------------------------


def _absolute(w: Writer) -> None:
    (x,) = w.operation.arguments
    w.knot(w.sum((2, w.add(Relu, x)), (-1, x), last=True), _hull_of_absolute, x)


def _hull_of_absolute(box: Box) -> Box:
    lower, upper = box
    return Box(torch.maximum(lower, -upper).relu(), torch.maximum(-lower, upper))


def _leaky(w: Writer) -> None:
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


def _clamp(w: Writer) -> None:
    x, low, high = (*w.operation.arguments, "", "")[:3]
    ends = (w.constants.get(end) for end in (low, high))
    has_low, has_high = (end is not None and end.numel() > 0 for end in ends)
    if has_low:
        x = w.larger(x, low, last=not has_high)
    if has_high:
        w.smaller(x, high, last=True)


def _of_several(w: Writer, write: Callable[..., str], function: Callable[..., Tensor]) -> None:
    value, *others = sorted(w.operation.arguments, key=w.constants.__contains__)
    for number, other in enumerate(others, 1):
        before, value = value, write(value, other, last=number == len(others))
        if other not in w.constants:  # with a constant, nothing is bounded as if it were two
            w.knot(value, lambda a, b: Box(*map(function, a, b)), before, other)


def _product(w: Writer) -> bool:
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


def _quotient(w: Writer) -> bool:
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


def _multiply(w: Writer, first: str, second: str) -> bool:
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


_PRODUCTS: dict[str, Callable[[Writer], bool]] = {"BoundMul": _product, "BoundDiv": _quotient}
_OF_SEVERAL = ("BoundMax", "BoundMin")
_WRITERS: dict[str, Callable[[Writer], None]] = {
    "BoundAbs": _absolute,
    "BoundClip": _clamp,
    "BoundHardTanh": _clamp,
    "BoundLeakyRelu": _leaky,
    "BoundMax": lambda w: _of_several(w, w.larger, torch.maximum),
    "BoundMin": lambda w: _of_several(w, w.smaller, torch.minimum),
    "BoundMaxPool": write_max_pool,
    "BoundPRelu": _leaky,
}
