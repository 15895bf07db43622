"""The network of an ONNX file, as a checker of proofs reads it: affine maps, ReLU and curves.

The file is read by the protobuf rules of ONNX, without any package. Piecewise linear operations are
written as affine maps and ReLU (:mod:`.pieces`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import curves
from .moves import MOVES, moved, parts, windows_over
from .network import Array, Network, Node, Numbers, Refused, require
from .onnx_curves import Origins
from .pieces import PIECES, Writer, windows_of
from .protobuf import attributes, integers, message, tensor


def network_of(data: bytes, numbers: Numbers) -> Network:
    """Return the network of an ONNX file."""
    graph = message(message(data)[7][0])
    reader = _Reader(numbers, {message(t)[8][0].decode(): tensor(t) for t in graph[5]})
    inputs = [message(value) for value in graph[11]]
    inputs = [value for value in inputs if value[1][0].decode() not in reader.constants]
    require(len(inputs) == len(graph[12]) == 1, "the network has not one input and output")
    name, output = inputs[0][1][0].decode(), message(graph[12][0])[1][0].decode()
    sides = message(message(message(inputs[0][2][0])[1][0])[2][0])[1]
    sizes = [(integers(message(side)[1]) or [1])[0] for side in sides]
    shape = reader.shapes[name] = tuple(sizes[1:])
    for node in map(message, graph[1]):
        reader.read(node)
    require(output in reader.shapes, reader.why.get(output, "the output is not computed"))
    counts = {value: math.prod(sides) for value, sides in reader.shapes.items()}
    nodes = _needed(reader.nodes, output)
    return Network(numbers, name, output, nodes, counts, shape, hashlib.sha256(data).hexdigest())


def _needed(nodes: list[Node], output: str) -> list[Node]:
    """Return the nodes that the output depends on."""
    needed, found = {output}, []
    for node in reversed(nodes):
        if node.result in needed:
            needed |= {*node.sources, *node.operands}
            found.append(node)
    return found[::-1]


class _Reader(Writer):
    """Reads nodes of ONNX one after the other.

    Values that are neither affine, nor piecewise linear, nor curves have no shape, but ``why`` has
    the reason; ``origins`` have what each value is computed by, so that curves may be recognised.
    """

    def __init__(self, numbers: Numbers, constants: dict[str, Any]):
        super().__init__(numbers)
        self.constants = constants
        self.origins = Origins(constants)
        self.why: dict[str, str] = {}

    def read(self, node: dict[int, list[Any]]) -> None:
        """Add what a node computes."""
        kind, results = node[4][0].decode(), [name.decode() for name in node[2]]
        result, *others = results
        names, given = [name.decode() for name in node[1]], attributes(node)
        if kind == "Constant" or (kind == "Identity" and names[0] in self.constants):
            self.constants[result] = given["value"] if names == [] else self.constants[names[0]]
            return
        self.origins[result] = kind, names, given
        sources = [name for name in names if name in self.shapes]
        unread = [name for name in names if name in self.why]
        known = all(name in self.shapes or name in self.constants for name in names if name)
        try:
            if not others and self._bend(result):
                return
            why = f"{kind} {result}: its inputs are not read"
            alone = not others or kind == "Split"
            require(sources and known and alone, self.why[unread[0]] if unread else why)
            if kind == "Split":
                self._parted(results, given, names)
            elif kind in PIECES:
                self._piece(kind, result, given, names)
            else:
                self._affine(kind, result, given, names, sources)
        except Refused as error:
            self.why[result] = str(error)

    # -- curves and products --------------------------------------------------------------------

    def _bend(self, result: str) -> bool:
        """Add a value that is a curve of another one, or a product of two; False for others."""
        found = self.origins.curve(result)
        if found is not None and found.x in self.shapes:
            value = result if found.factor == 1 else f"{result}:curve"
            self.add(Node(value, [found.x], bend=found.curve), self.shapes[found.x])
            if found.factor != 1:
                scale = self.numbers.of(found.factor)
                self.taken(result, [value], self.places(found.x), scale=scale)
            return True
        kind, names, _ = self.origins[result]
        if kind not in ("Mul", "Div") or names[1] not in self.shapes:
            return False
        first, second = names
        if kind == "Div":
            second = f"{result}:inverse"
            self.add(Node(second, [names[1]], bend=curves.power_of(-1)), self.shapes[names[1]])
        if first in self.shapes:
            self.product(result, first, second)
        elif kind == "Div":
            self.scaled(result, second, self._constant(first, second))
        return first in self.shapes or kind == "Div"

    # -- piecewise linear operations ----------------------------------------------------------

    def _piece(self, kind: str, result: str, given: dict[str, Any], names: list[str]) -> None:
        x = next(name for name in names if name in self.shapes)
        refused = f"{kind} with {sorted(given)} is not read"
        values = [self._constant(name, x) for name in names]
        if kind in ("Max", "Min"):
            computed = [n for n in names if n in self.shapes]
            known = [value for value in values if value is not None]
            self.largest(result, computed, known, 1 if kind == "Max" else -1)
            return
        require(x == names[0] and all(n not in self.shapes for n in names[1:]), refused)
        if kind == "Relu":
            self.add(Node(result, [x]), self.shapes[x])
        elif kind == "Abs":
            self.absolute(result, x)
        elif kind in ("LeakyRelu", "PRelu"):
            slope = (
                self.numbers.of(given.get("alpha", float(np.float32(0.01))))
                if kind[0] == "L"
                else values[1]
            )
            self.leaky(result, x, slope)
        elif kind == "HardSigmoid":
            a, b = (self.numbers.of(given.get(*key))[()] for key in (("alpha", 0.2), ("beta", 0.5)))
            shifted = self.scaled(self.named(result), x, 1, b / a)
            self.scaled(result, self.clip(f"{result}:cut", shifted, 0 * a, 1 / a), a)
        elif kind == "Clip":
            require(not given, refused)
            self.clip(result, x, *(*values[1:], None, None)[:2])
        else:
            self._max_pool(result, x, windows_of(given, self.shapes[x], refused))

    def _max_pool(self, result: str, x: str, windows: list[list[list[int]]]) -> None:
        """Add a maximum over windows; of ReLUs, the ReLU of the maximum."""
        kind, (before, *_), _ = self.origins.get(x, ("", [""], {}))
        if kind != "Relu":
            self.max_pool(result, x, windows)
            return
        largest = self.named(result)
        self.max_pool(largest, before, windows)
        self.add(Node(result, [largest]), self.shapes[largest])

    def _constant(self, name: str, x: str) -> Any:
        """Return a constant, without the first axis where x has it too; None if it is none."""
        value = self.constants.get(name)
        if value is None:
            return None
        whole = value.ndim == len(self.shapes[x]) + 1 and len(value) == 1
        return self.numbers.of(value[0] if whole else value)

    # -- affine operations --------------------------------------------------------------------

    def _affine(
        self, kind: str, result: str, given: dict[str, Any], names: list[str], sources: list[str]
    ) -> None:
        refused = f"{kind} with {sorted(given)} is not read"
        constants: list[Any] = [self.constants.get(name) for name in names]
        if kind == "Concat":
            require(all(c is None for c in constants), refused)
            self._joined(result, sources, given["axis"][0], refused)
            return
        if kind in MOVES:
            require(all(c is not None for c in constants[1:]), refused)
            ints = [np.asarray(c).astype(int) for c in constants[1:]]
            index = moved(kind, given, ints, self.places(sources[0])[None])
            if index is None or index.ndim < 2 or len(index) != 1:
                raise Refused(refused)
            fill = np.asarray(constants[2] if kind == "Pad" and len(constants) > 2 else 0.0)
            self.taken(result, [sources[0]], index[0], shift=self.numbers.of((index[0] < 0) * fill))
            return
        values: list[Any] = [None if c is None else self.numbers.of(c) for c in constants]
        x = sources[0]
        if kind in ("ReduceMean", "ReduceSum"):
            self._total(kind, result, x, given, constants, refused)
        elif kind in ("Conv", "AveragePool", "GlobalAveragePool"):
            self._convolution(kind, result, x, given, values, refused)
        elif kind in ("Gemm", "MatMul"):
            weight = values[1]
            require(values[0] is None and weight is not None and weight.ndim == 2, refused)
            ones = {given.get(name, 1.0) for name in ("alpha", "beta")} == {1.0}
            require(ones and not given.get("transA", [0])[0], refused)
            weight = weight if given.get("transB", [0])[0] else weight.T
            self._product(result, x, weight, (*values, None)[2])
        else:
            values = [self._constant(name, x) for name in names]
            self._elementwise(kind, result, given, values, sources, refused)

    def _parted(self, results: list[str], given: dict[str, Any], names: list[str]) -> None:
        """Add the parts of a value, one after the other along an axis of the network's."""
        sizes = self.constants[names[1]].tolist() if names[1:] else given.get("split")
        found = parts(self.places(names[0])[None], given, sizes, len(results))
        require(found, f"Split {results[0]} with parts {sizes} is not read")
        for result, part in zip(results, found, strict=True):
            self.taken(result, [names[0]], part[0])

    def _joined(self, result: str, sources: Sequence[str], axis: int, refused: str) -> None:
        """Add values one after the other along an axis of the network's."""
        axis %= len(self.shapes[sources[0]]) + 1
        require(axis > 0, refused)
        starts = np.cumsum([0] + [math.prod(self.shapes[s]) for s in sources])
        parts = [self.places(s) + at for s, at in zip(sources, starts, strict=False)]
        self.taken(result, sources, np.concatenate(parts, axis - 1))

    def _product(self, result: str, x: str, weight: Array, bias: Any) -> None:
        """Add the product of the last axis with a matrix (out, in)."""
        places = self.places(x)
        index = places.reshape(-1, places.shape[-1]).T
        require(len(index) == weight.shape[1], f"{result}: a matrix does not fit")
        flat = f"{result}:flat"
        shift = 0 if bias is None else np.broadcast_to(bias.reshape(-1, 1), (len(weight), 1))
        self.affine(flat, [x], weight, index, (len(weight), index.shape[1]), shift=shift)
        self.taken(result, [flat], self.places(flat).T.reshape(*places.shape[:-1], len(weight)))

    def _elementwise(
        self, kind: str, result: str, given: dict[str, Any], values: list[Any],
        sources: list[str], refused: str,
    ) -> None:  # fmt: skip
        """Add what a node does to every number alone; ``values`` has None for computed ones."""
        first, second = (*values, None)[:2]
        weight: Any = second if first is None else first
        x, sign = sources[0], -1 if kind == "Sub" else 1
        if kind in ("Add", "Sub") and len(sources) == 2:
            self.sum(result, (1, x), (sign, sources[1]))
        elif kind in ("Add", "Sub"):
            scale, shift = (1, sign * weight) if first is None else (sign, weight)
            self.scaled(result, x, scale, shift)
        elif kind in ("Neg", "Mul"):
            require(len(sources) == 1, refused)
            self.scaled(result, x, -1 if kind == "Neg" else weight)
        elif kind == "Div" and second is not None:
            self.scaled(result, x, 1 / second)
        elif kind == "BatchNormalization" and not self.numbers.exact:
            weight, bias, mean, variance = values[1:]
            scale = weight / np.sqrt(variance + given.get("epsilon", 1e-5))
            sides = (-1,) + (1,) * (len(self.shapes[x]) - 1)
            # the last term covers a scale that a device flushes to zero
            size = (abs(bias) + abs(mean * scale) + abs(mean) * 2.0**-100).reshape(sides)
            scale, shift = scale.reshape(sides), (bias - mean * scale).reshape(sides)
            self.scaled(result, x, scale, shift, size)
        else:
            raise Refused(refused)

    def _total(
        self, kind: str, result: str, x: str, given: dict[str, Any], constants: Any, refused: str
    ) -> None:
        """Add sums over axes, or means."""
        places = self.places(x)
        axes = given["axes"] if "axes" in given else constants[1].tolist()
        axes = sorted(axis % (places.ndim + 1) - 1 for axis in axes)
        require(axes and axes[0] >= 0, refused)
        kept = [axis for axis in range(places.ndim) if axis not in axes]
        keeps = given.get("keepdims", [1]) != [0]
        shape = tuple(
            1 if k in axes else n for k, n in enumerate(places.shape) if keeps or k in kept
        )
        index = places.transpose(axes + kept).reshape(-1, math.prod(shape))
        scale = self.numbers.of(1)[()] / (len(index) if kind == "ReduceMean" else 1)
        self.affine(result, [x], self.numbers.of(np.ones((1, len(index)))), index, shape, scale)

    def _convolution(
        self, kind: str, result: str, x: str, given: dict[str, Any], values: list[Any], refused: str
    ) -> None:
        """Add a convolution, or means over windows, as products with the windows' numbers."""
        shape, (weight, bias) = self.shapes[x], (*values[1:], None, None)[:2]
        sizes = given.get("kernel_shape", shape[1:]) if weight is None else weight.shape[2:]
        require("auto_pad" not in given and len(sizes) == 2 and len(shape) == 3, refused)
        windows = windows_over(self.places(x), sizes, given)  # channels, places, sizes
        after = windows.shape[1:3]
        if weight is not None:
            index = windows.transpose(0, 3, 4, 1, 2).reshape(-1, math.prod(after))
            outputs, groups = np.arange(len(weight)), given.get("group", [1])[0]
            wide = self.numbers.of(np.zeros((len(weight), groups, *weight.shape[1:])))
            wide[outputs, outputs * groups // len(weight)] = weight
            flat = wide.reshape(len(weight), -1)
            fits = len(index) == flat.shape[1] and len(weight) % groups == 0
            require(fits, f"{result}: a kernel does not fit")
            shift = 0 if bias is None else bias.reshape(-1, 1, 1)
            self.affine(result, [x], flat, index.clip(-1), (len(flat), *after), shift=shift)
            return
        index = windows.reshape(-1, math.prod(sizes)).T
        alike = given.get("count_include_pad", [0]) == [1]
        number = (index >= (-1 if alike else 0)).sum(0)
        require(number.min() > 0, f"{refused}: a window holds padding alone")
        scale = self.numbers.of(np.ones((shape[0], *after))) / number.reshape(shape[0], *after)
        ones = self.numbers.of(np.ones((1, len(index))))
        self.affine(result, [x], ones, index.clip(-1), (shape[0], *after), scale)
