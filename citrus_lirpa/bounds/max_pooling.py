"""Max pooling as a tree of maxima of two, along one axis after the other.

The maximum of ReLUs is the ReLU of the maximum, and max pooling of ReLUs is written so: where
nothing else takes these, fewer are left.
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import ModelError
from .box import Box
from .graph import Graph
from .pieces import Joined, Relu, Taken, taken
from .writer import Writer


def relus_to_pool(graph: Graph) -> set[str]:
    """Return the ReLUs that nothing but max pooling takes."""
    kinds: dict[str, set[str]] = {name: set() for name in graph.relus}
    for operation in graph.operations.values():
        for source in kinds.keys() & operation.sources:
            kinds[source].add(operation.kind)
    return {name for name, found in kinds.items() if found == {"BoundMaxPool"}} - {graph.output}


def write_max_pool(w: Writer) -> None:
    """One axis after the other, in pairs: windows that overlap share their maxima.

    Those of a ReLU's values are ReLUs of the maxima of its inputs.
    """
    (source,) = w.node.inputs
    shape, rectified = list(source.output_shape[1:]), type(source).__name__ == "BoundRelu"
    x = source.inputs[0].name if rectified else source.name
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
    w: Writer, x: str, axis: int, shape: list[int], pairs: list[tuple[int, int]], alone: list[int]
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
