"""The network of an ONNX file, as a checker of proofs reads it: affine maps and ReLU.

The file is read by the protobuf rules of ONNX, without any package. Piecewise linear operations are
written as affine maps and ReLU (:mod:`.pieces`).
"""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from .affine import (
    Affine,
    Array,
    Average,
    Convolution,
    Joined,
    Matrix,
    Numbers,
    Refused,
    Reshape,
    Selection,
    Sum,
    Total,
    require,
)
from .pieces import Hull, Writer, windows_of


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value - (1 << 64 if value >> 63 else 0), at


def _message(data: bytes) -> dict[int, list[Any]]:
    """Return the fields of a protobuf message by number: integers, or bytes."""
    fields: dict[int, list[Any]] = defaultdict(list)
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value: Any
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
            value, at = data[at : at + size], at + size
        fields[key >> 3].append(value)
    return fields


def _integers(values: list[Any]) -> list[int]:
    """Return repeated integers, which may be packed."""
    found: list[int] = []
    for value in values:
        packed, at = (value, 0) if isinstance(value, bytes) else (b"", 0)
        found += [] if isinstance(value, bytes) else [value]
        while at < len(packed):
            number, at = _varint(packed, at)
            found.append(number)
    return found


def _tensor(data: bytes) -> Array:
    f = _message(data)
    kind = {1: ("<f4", 4), 7: ("<i8", 7), 11: ("<f8", 10)}.get(f[2][0])
    require(kind, f"a tensor of type {f[2][0]} is not read; expected float32, float64 or int64")
    code, field = kind or ("", 0)
    if f[9] or code != "<i8":
        values = np.frombuffer(b"".join(f[9] or f[field]), code)
    else:
        values = np.array(_integers(f[7]), np.int64)
    return values.reshape(_integers(f[1]))


Node = tuple[str, list[str], Any]  # its result, its computed sources, Affine or None for ReLU


class Network:
    """A network of affine maps and ReLU: ``nodes`` in order, ``shapes`` of their results.

    ``hulls`` are intervals that values have by other values of the network.
    """

    def __init__(self, data: bytes, numbers: Numbers):
        self.numbers, self.hash = numbers, hashlib.sha256(data).hexdigest()
        graph = _message(_message(data)[7][0])
        self.constants: dict[str, Any] = {_message(t)[8][0].decode(): _tensor(t) for t in graph[5]}
        inputs = [_message(value) for value in graph[11]]
        inputs = [value for value in inputs if value[1][0].decode() not in self.constants]
        require(len(inputs) == len(graph[12]) == 1, "the network has not one input and output")
        self.input = inputs[0][1][0].decode()
        sides = _message(_message(_message(inputs[0][2][0])[1][0])[2][0])[1]
        sizes = [(_integers(_message(side)[1]) or [1])[0] for side in sides]
        self.shapes: dict[str, tuple[int, ...]] = {self.input: tuple(sizes[1:])}
        self.nodes: list[Node] = []
        self.hulls: dict[str, tuple[list[str], Hull]] = {}
        for node in map(_message, graph[1]):
            self._read(node)
        self.output = _message(graph[12][0])[1][0].decode()
        require(self.output in self.shapes, "the output of the network is not computed")
        self.classes = self.shapes[self.output][0]

    def preactivations(self, image: Array) -> list[Array]:
        """Return the inputs of all ReLUs on an image, in the order of the neurons' numbers."""
        values, found = {self.input: self.numbers.of(image)[None]}, []
        for result, sources, affine in self.nodes:
            x = [values[source] for source in sources]
            if affine is None:
                found.append(x[0])
            values[result] = np.maximum(x[0], 0) if affine is None else affine.apply(*x)
        return found

    def _read(self, node: dict[int, list[Any]]) -> None:
        kind, (result, *others) = node[4][0].decode(), [name.decode() for name in node[2]]
        arguments = [name.decode() for name in node[1]]
        given = {}
        for field in map(_message, node[5]):
            value = _tensor(field[5][0]) if field[5] else _integers(field[8] or field[3])
            if field[2]:
                value = struct.unpack("<f", field[2][0])[0]
            given[field[1][0].decode()] = field[4][0] if field[4] else value
        constants = [self.constants.get(name) for name in arguments]
        if kind == "Constant" or (kind == "Identity" and constants[0] is not None):
            self.constants[result] = given["value"] if kind == "Constant" else constants[0]
            return
        sources = [name for name in arguments if name in self.shapes]
        known = all(name in self.shapes or name in self.constants for name in arguments if name)
        require(sources and known and not others, f"{kind} {result}: its inputs are not read")
        if kind == "Relu":
            self._add(result, sources, None)
        elif not self._piecewise(kind, result, given, arguments):
            shapes = [self.shapes[name] for name in sources]
            self._add(result, sources, self._affine(kind, given, constants, shapes))

    def _add(self, result: str, sources: Sequence[str], affine: Affine | None) -> str:
        """Add a node, and return the name of its result."""
        require(result not in self.shapes, f"{result} is computed twice")
        zeros = [np.zeros((1, *self.shapes[name]), self.numbers.of(0).dtype) for name in sources]
        value = zeros[0] if affine is None else affine.apply(*zeros)
        self.shapes[result] = value.shape[1:]
        self.nodes.append((result, list(sources), affine))
        return result

    def _piecewise(self, kind: str, result: str, given: dict[str, Any], names: list[str]) -> bool:
        """Add the nodes of an operation that is piecewise linear; False for others."""
        of, writer = self.numbers.of, Writer(result, self.numbers, self._add, self.hulls)
        known = self.constants
        constants: list[Any] = [of(known[n]) if n in known else None for n in names]
        x = names[0]
        refused = f"{kind} with {sorted(given)} is not read"
        if kind in ("Max", "Min"):
            computed = [n if n in self.shapes else None for n in names]
            values = list(zip(computed, constants, strict=True))
            writer.largest(values, 1 if kind == "Max" else -1)
        elif kind in ("Abs", "LeakyRelu", "PRelu", "Clip", "MaxPool"):
            require(x in self.shapes and all(n not in self.shapes for n in names[1:]), refused)
            if kind == "Abs":
                writer.absolute(x)
            elif kind == "LeakyRelu":
                writer.leaky(x, of(given.get("alpha", float(np.float32(0.01)))))
            elif kind == "PRelu":
                writer.leaky(x, constants[1])
            elif kind == "Clip":
                require(not given, refused)
                writer.clip(x, *(*constants[1:], None, None)[:2])
            else:
                shape = self.shapes[x]
                writer.max_pool(x, shape, windows_of(given, shape, refused))
        else:
            return False
        return True

    def _affine(
        self, kind: str, given: dict[str, Any], constants: list[Any], shapes: list[tuple[int, ...]]
    ) -> Affine:
        """Return what a node of ONNX computes; ``constants`` has None for computed inputs."""
        shape = shapes[0]
        values: list[Any] = [None if c is None else self.numbers.of(c) for c in constants]
        first, second, bias = (*values, None, None)[:3]
        refused = f"{kind} with {sorted(given)} is not read"
        if kind == "Concat":
            require(all(c is None for c in constants), refused)
            axis = given["axis"][0] % (len(shape) + 1) - 1
            require(axis >= 0, refused)
            return Joined(axis, [sides[axis] for sides in shapes])
        if kind in ("Slice", "Gather", "Transpose", "Squeeze", "Unsqueeze", "Pad"):
            require(all(c is not None for c in constants[1:]), refused)
            return _selection(kind, given, constants, shape, refused)
        if kind in ("ReduceMean", "ReduceSum"):
            axes = given["axes"] if "axes" in given else constants[1].tolist()
            axes = tuple(sorted(axis % (len(shape) + 1) for axis in axes))
            require(axes and axes[0] > 0, refused)
            count = int(np.prod([shape[axis - 1] for axis in axes])) if kind[6] == "M" else 1
            weight = self.numbers.of(1)[()] / count
            return Total(weight, axes, given.get("keepdims", [1]) != [0], shape)
        if kind in ("Flatten", "Reshape", "Identity"):
            return _reshaping(kind, given, constants, shape, refused)
        if kind in ("Conv", "AveragePool", "GlobalAveragePool"):
            return self._convolution(kind, given, second, bias, shape, refused)
        if kind == "Gemm" and not given.get("transA", [0])[0]:
            ones = {given.get(name, 1.0) for name in ("alpha", "beta")} == {1.0}
            require(ones and first is None and second is not None, refused)
            weight = second if given.get("transB", [0])[0] else second.T
            return Matrix(weight, bias, terms=max(weight.shape))
        if kind == "MatMul" and second is not None and second.ndim == 2:
            return Matrix(second.T, terms=max(second.shape))
        return self._elementwise(kind, given, values, shape, refused)

    def _elementwise(
        self, kind: str, given: dict[str, Any], values: list[Any], shape: Any, refused: str
    ) -> Affine:
        """Return what a node does to every number alone; ``values`` has None for computed ones."""
        first, second = (*values, None)[:2]
        weight: Any = second if first is None else first
        if kind in ("Add", "Sub"):
            sign = -1 if kind == "Sub" else 1
            if first is None and second is None:
                return Sum(np.array([1, sign]), terms=2)
            return Affine(1, sign * weight) if first is None else Affine(sign, weight)
        if kind == "Neg":
            return Affine(-1)
        if kind == "Mul":
            return Affine(weight)
        if kind == "Div" and second is not None:
            return Affine(1 / second)
        if kind == "BatchNormalization" and not self.numbers.exact:
            weight, bias, mean, variance = values[1:]
            scale = weight / np.sqrt(variance + given.get("epsilon", 1e-5))
            axes = (-1,) + (1,) * (len(shape) - 1)
            scale, mean, bias = (v.reshape(axes) for v in (scale, mean, bias))
            return Affine(scale, bias - mean * scale, abs(bias) + abs(mean * scale))
        raise Refused(refused)

    def _convolution(
        self, kind: str, given: dict[str, Any], weight: Any, bias: Any, shape: Any, refused: str
    ) -> Affine:
        if kind != "Conv":
            sizes = given["kernel_shape"] if kind == "AveragePool" else shape[1:]
            weight = self.numbers.of(np.ones(sizes)) / int(np.prod(sizes))
        plain = given.get("group", [1]) == [1] and set(given.get("dilations", [1])) == {1}
        require(plain and not given.get("ceil_mode", [0])[0] and len(shape) == 3, refused)
        require("auto_pad" not in given, refused)
        alike = given.get("count_include_pad", [0]) == [1]  # one divisor for all windows
        uneven = kind != "Conv" and any(given.get("pads", [0])) and not alike
        bias = None if bias is None else bias.reshape(-1, 1, 1)
        made = (Average if uneven else Convolution)(weight, bias)
        made.terms += weight.shape[-2] * weight.shape[-1] * max(weight.shape[:2])
        made.strides, made.before = given.get("strides", [1, 1]), shape
        made.pads = given.get("pads", [0, 0, 0, 0])
        if isinstance(made, Average):
            made.weight = self.numbers.of(np.ones(weight.shape))
            made.share = 1 / made.apply(self.numbers.of(np.ones((1, *shape))))
        return made


def _reshaping(
    kind: str, given: dict[str, Any], constants: list[Any], shape: tuple[int, ...], refused: str
) -> Reshape:
    """Return what an operation does that keeps all numbers in their order."""
    reshape = Reshape(1)
    reshape.before, reshape.after = shape, shape
    if kind == "Flatten":
        require(given.get("axis", [1]) == [1], refused)
        reshape.after = (int(np.prod(shape)),)
    elif kind == "Reshape":
        wanted = np.empty((1, *shape)).reshape(constants[1].astype(int)).shape
        require(wanted[0] == 1, refused)
        reshape.after = wanted[1:]
    return reshape


def _selection(
    kind: str, given: dict[str, Any], constants: list[Any], shape: tuple[int, ...], refused: str
) -> Selection:
    """Return what an operation does that moves numbers, found by moving the numbers of places."""
    index = np.arange(int(np.prod(shape))).reshape(1, *shape)
    ints: list[Any] = [None, *(np.asarray(c).astype(int) for c in constants[1:])]
    constant = None
    if kind == "Slice":
        starts, ends, axes, steps = (*(i.tolist() for i in ints[1:]), None, None)[:4]
        axes = range(len(starts)) if axes is None else axes
        cut = [slice(None)] * index.ndim
        for start, end, axis, step in zip(
            starts, ends, axes, steps or [1] * len(starts), strict=True
        ):
            cut[axis] = slice(start, end if step > 0 or end >= -index.shape[axis] else None, step)
        index = index[tuple(cut)]
    elif kind == "Gather":
        axis = given.get("axis", [0])[0]
        require(axis % index.ndim > 0, refused)
        index = np.take(index, ints[1], axis)
    elif kind == "Transpose":
        require(given["perm"][0] == 0, refused)
        index = index.transpose(given["perm"])
    elif kind == "Pad":
        require(given.get("mode", b"constant") == b"constant" and len(ints) < 4, refused)
        sides = ints[1].reshape(2, -1)
        require((sides >= 0).all() and not sides[:, 0].any(), refused)
        index = np.pad(index, sides.T, constant_values=-1)
        value = np.asarray(constants[2] if len(constants) > 2 else 0, np.float64)
        constant = (index[0] < 0) * value
    else:
        axes = given["axes"] if "axes" in given else ints[1].tolist()
        change = np.squeeze if kind == "Squeeze" else np.expand_dims
        index = change(index, tuple(axes))
    require(index.ndim > 1 and index.shape[0] == 1, refused)
    return Selection(index[0], shape, constant)
