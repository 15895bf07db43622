"""Operations of ONNX that are piecewise linear, as affine maps and ReLU, for a checker of proofs.

max(a, b) = b + ReLU(a - b), min(a, b) = b - ReLU(b - a), |x| = 2 ReLU(x) - x, and x times s below
zero is ReLU(x) + s (x - ReLU(x)). Each ReLU has its neurons; their order is in the documentation
(Proofs). Values written so also have the interval of the operation itself, which is narrower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .network import Affine, Array, Node, Numbers, Refused, require
from .products import Product

#: Operations that are written so.
PIECES = (
    "Abs", "Clip", "HardSigmoid", "LeakyRelu", "Max", "MaxPool", "Min", "PRelu", "Relu",
)  # fmt: skip


class Writer:
    """Nodes in order, and the shapes of their values, without the first axis."""

    def __init__(self, numbers: Numbers):
        self.numbers = numbers
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def add(self, node: Node, shape: tuple[int, ...]) -> str:
        """Add a node, and return the name of its result."""
        require(node.result not in self.shapes, f"{node.result} is computed twice")
        self.shapes[node.result] = shape
        self.nodes.append(node)
        return node.result

    def places(self, name: str) -> Array:
        """Return the places of a value's numbers, in its shape."""
        return np.arange(math.prod(self.shapes[name])).reshape(self.shapes[name])

    def named(self, result: str) -> str:
        """Return a name for a value within an operation."""
        return f"{result}:{len(self.nodes)}"

    def affine(
        self, result: str, sources: Sequence[str], weight: Any, index: Array,
        shape: tuple[int, ...], scale: Any = 1, shift: Any = 0, size: Any = 0, **hull: Any,
    ) -> str:  # fmt: skip
        """Add an affine map; scale, shift and size may be of any shape that becomes ``shape``."""

        def column(values: Any) -> Any:
            if np.size(values) == 1:
                return np.reshape(values, ())[()]
            return np.broadcast_to(values, shape).reshape(-1, 1)

        count = sum(math.prod(self.shapes[name]) for name in sources)
        made = Affine(count, weight, index, *map(column, (scale, shift, size)))
        return self.add(Node(result, sources, made, **hull), shape)

    def taken(self, result: str, sources: Sequence[str], index: Array, **more: Any) -> str:
        """Add the numbers of values at some places, in the shape of these."""
        one = self.numbers.of([[1]])
        return self.affine(result, sources, one, index.reshape(1, -1), index.shape, **more)

    def scaled(
        self, result: str, x: str, scale: Any, shift: Any = 0, size: Any = 0, **hull: Any
    ) -> str:
        """Add scale * x + shift, each number alone."""
        shape = np.broadcast_shapes(self.shapes[x], np.shape(scale), np.shape(shift))
        index = np.broadcast_to(self.places(x), shape)
        return self.taken(result, [x], index, scale=scale, shift=shift, size=size, **hull)

    def sum(self, result: str, *parts: tuple[int, str], **hull: Any) -> str:
        """Add a sum of values times factors."""
        sources = [name for _, name in parts]
        shape = np.broadcast_shapes(*(self.shapes[name] for name in sources))
        starts = np.cumsum([0] + [math.prod(self.shapes[name]) for name in sources])
        index = np.stack([
            (np.broadcast_to(self.places(name), shape) + at).ravel()
            for name, at in zip(sources, starts, strict=False)
        ])  # fmt: skip
        weight = self.numbers.of([[factor for factor, _ in parts]])
        return self.affine(result, sources, weight, index, shape, **hull)

    def relu(self, source: str) -> str:
        """Add the ReLU of a value."""
        return self.add(Node(self.named(source), [source]), self.shapes[source])

    def larger(self, result: str, a: str, b: str, sign: int = 1) -> str:
        """Add the maximum of two values, or, for sign -1, the minimum."""
        over = self.relu(self.sum(self.named(result), (sign, a), (-sign, b)))
        function = np.maximum if sign > 0 else np.minimum
        return self.sum(result, (1, b), (sign, over), operands=(a, b), hull=function)

    def limited(self, result: str, a: str, constant: Array, sign: int) -> str:
        """Add the maximum of a value and a constant, or, for sign -1, the minimum."""
        over = self.relu(self.scaled(self.named(result), a, sign, -sign * constant))
        return self.scaled(result, over, sign, constant)

    def product(self, result: str, a: str, b: str) -> str:
        """Add the product of two values, which stand below each other in its input."""
        shape = np.broadcast_shapes(self.shapes[a], self.shapes[b])
        places = self.places(a), self.places(b) + math.prod(self.shapes[a])
        index = np.stack([np.broadcast_to(its, shape) for its in places])
        pair = self.taken(self.named(result), [a, b], index)
        return self.add(Node(result, [pair], bend=Product()), shape)

    # -- operations ---------------------------------------------------------------------------

    def absolute(self, result: str, x: str) -> None:
        """Write |x|."""
        self.sum(result, (2, self.relu(x)), (-1, x), operands=(x,), hull=abs)

    def leaky(self, result: str, x: str, slope: Array) -> None:
        """Write x where it is positive, slope times x elsewhere."""
        above = self.relu(x)
        under = self.sum(self.named(result), (1, x), (-1, above))
        below = self.scaled(self.named(result), under, slope)
        column = np.broadcast_to(slope, self.shapes[x]).reshape(-1, 1)

        def function(values: Array) -> Array:
            return np.where(values > 0, values, values * column)

        self.sum(result, (1, above), (1, below), operands=(x,), hull=function)

    def clip(self, result: str, x: str, low: Array | None, high: Array | None) -> str:
        """Write x between two constants, each of which may be missing."""
        require(low is not None or high is not None, f"Clip {result} has no limits")
        if low is not None:
            x = self.limited(result if high is None else self.named(result), x, low, 1)
        if high is not None:
            x = self.limited(result, x, high, -1)
        return x

    def largest(
        self, result: str, names: Sequence[str], constants: Sequence[Array], sign: int
    ) -> None:
        """Write the maximum of values and constants, or, for sign -1, the minimum."""
        first, left = names[0], len(names) + len(constants) - 1
        for k, other in enumerate([*names[1:], *constants]):
            name = result if k == left - 1 else self.named(result)
            add: Any = self.larger if isinstance(other, str) else self.limited
            first = add(name, first, other, sign)

    def max_pool(self, result: str, x: str, windows: list[list[list[int]]]) -> None:
        """Write the maximum over windows, along one axis after the other, the last one first.

        ``windows`` has, for each axis behind the channels, the places of every window.
        """
        for axis in range(len(windows), 0, -1):
            mine = windows[axis - 1]
            while max(map(len, mine)) > 1:
                x, mine = self._level(result, x, axis, mine)
            places = np.take(self.places(x), [place for (place,) in mine], axis)
            x = self.taken(result if axis == 1 else self.named(result), [x], places)

    def _level(
        self, result: str, x: str, axis: int, windows: list[list[int]]
    ) -> tuple[str, list[list[int]]]:
        """Write maxima of pairs; windows of odd length keep their last place for the next level."""
        pairs = sorted({(w[k], w[k + 1]) for w in windows for k in range(0, len(w) - 1, 2)})
        alone = sorted({w[-1] for w in windows if len(w) % 2})
        first, second = (
            self.taken(self.named(result), [x], np.take(self.places(x), places, axis))
            for places in zip(*pairs, strict=True)
        )
        value = self.larger(self.named(result), first, second)
        if alone:
            others = np.take(self.places(x), alone, axis) + math.prod(self.shapes[value])
            joined = np.concatenate([self.places(value), others], axis)
            value = self.taken(self.named(result), [value, x], joined)
        number = {pair: k for k, pair in enumerate(pairs)}
        last = {place: len(pairs) + k for k, place in enumerate(alone)}
        found = [
            [number[w[k], w[k + 1]] for k in range(0, len(w) - 1, 2)]
            + ([last[w[-1]]] if len(w) % 2 else [])
            for w in windows
        ]
        return value, found


def windows_of(
    given: dict[str, Any], shape: tuple[int, ...], refused: str
) -> list[list[list[int]]]:
    """Return the places of a MaxPool's windows along each axis; padding is in none."""
    sizes, count = given["kernel_shape"], len(given["kernel_shape"])
    require(len(shape) == count + 1 and "auto_pad" not in given, refused)
    pads, strides = given.get("pads", [0] * 2 * count), given.get("strides", [1] * count)
    steps, ceil = given.get("dilations", [1] * count), given.get("ceil_mode", [0])[0]
    found = []
    for axis, (size, stride, step) in enumerate(zip(sizes, strides, steps, strict=True)):
        sides, before, after = shape[axis + 1], pads[axis], pads[axis + count]
        room = sides + before + after - step * (size - 1) - 1
        number = (room + (stride - 1 if ceil else 0)) // stride + 1
        if ceil and (number - 1) * stride >= sides + before:
            number -= 1  # no window begins in the padding at the end
        starts = [k * stride - before for k in range(number)]
        mine = [[s + step * k for k in range(size) if 0 <= s + step * k < sides] for s in starts]
        if not mine or not all(mine):
            raise Refused(f"{refused}: a window holds padding alone")
        found.append(mine)
    return found
