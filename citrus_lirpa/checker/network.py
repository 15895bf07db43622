"""The network of an ONNX file, as a checker of proofs reads it: affine layers and ReLU.

The file is read by the protobuf rules of ONNX, without any package. Numbers are float64, or
fractions.
"""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Refused(Exception):
    """A proof does not hold, or cannot be read; the message names what and why."""


def require(holds: Any, message: str) -> None:
    """Raise Refused unless something holds."""
    if not bool(holds):
        raise Refused(message)


class Numbers:
    """The arithmetic: float64 with twice its unit roundoff, or fractions with none."""

    def __init__(self, exact: bool):
        self.exact = exact
        self.unit: float = 0 if exact else 2.0**-52
        self.tiny: float = 0 if exact else 1e-280

    def of(self, values: Any) -> Array:
        """Return float values as numbers of this arithmetic."""
        array = np.asarray(values, np.float64)
        require(np.isfinite(array).all(), "a number is infinite or NaN")
        made = np.frompyfunc(Fraction, 1, 1)(array) if self.exact else array
        return np.asarray(made, object if self.exact else np.float64)

    def out(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Return ends moved outward by one rounding."""
        if self.exact:
            return lower, upper
        return np.nextafter(lower, -np.inf), np.nextafter(upper, np.inf)


# -- the network, read from an ONNX file -----------------------------------------------------


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


class Affine:
    """An affine map, by default of elements: ``weight`` x + ``constant``, as images need it.

    ``sizes`` are at least |constant|, ``terms`` how many products one number adds up.
    """

    def __init__(self, weight: Any, constant: Any = None, sizes: Any = None, terms: int = 1):
        self.weight, self.constant, self.terms = weight, constant, terms + 16
        self.sizes = 0 if constant is None else abs(constant) if sizes is None else sizes

    def apply(self, *x: Array) -> Array:
        """Return the result (R, ...) of values (R, ...)."""
        linear = self.forward(self.weight, *x)
        return linear if self.constant is None else linear + self.constant

    def forward(self, weight: Any, *x: Array) -> Array:
        """Return the linear part of values (R, ...), for ``weight`` or its absolute value."""
        return x[0] * weight

    def back(self, a: Array) -> tuple[Array, ...]:
        """Return coefficients (R, ...) on the sources, of coefficients on the result."""
        return (a * self.weight,)


class Sum(Affine):
    """The weighted sum of two values."""

    def forward(self, weight: Any, *x: Array) -> Array:  # noqa: D102
        return x[0] * weight[0] + x[1] * weight[1]

    def back(self, a: Array) -> tuple[Array, ...]:  # noqa: D102
        return a * self.weight[0], a * self.weight[1]


class Matrix(Affine):
    """A product with a matrix (out, in)."""

    def forward(self, weight: Any, *x: Array) -> Array:  # noqa: D102
        return x[0] @ weight.T

    def back(self, a: Array) -> tuple[Array, ...]:  # noqa: D102
        return (a @ self.weight,)


class Reshape(Affine):
    """The same numbers in another shape; ``before`` and ``after`` without the first axis."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def forward(self, weight: Any, *x: Array) -> Array:  # noqa: D102
        return x[0].reshape(len(x[0]), *self.after)

    def back(self, a: Array) -> tuple[Array, ...]:  # noqa: D102
        return (a.reshape(len(a), *self.before),)


class Convolution(Affine):
    """A convolution by ``weight`` (out, in, h, w), or, where it is (h, w), of each channel."""

    strides: list[int]
    pads: list[int]
    before: tuple[int, ...]

    def _windows(self, padded: Array) -> Iterator[tuple[int, int, Any]]:
        """Yield the places of the kernel, and what of the padded image each is multiplied by."""
        sizes = self.weight.shape[-2:]
        ends = [padded.shape[k] - sizes[k - 2] + 1 for k in (2, 3)]
        for i, j in np.ndindex(*sizes):
            yield (
                i,
                j,
                padded[:, :, i : i + ends[0] : self.strides[0], j : j + ends[1] : self.strides[1]],
            )

    def _padded(self, x: Array) -> Array:
        top, left, bottom, right = self.pads
        return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))

    def forward(self, weight: Any, *x: Array) -> Array:  # noqa: D102
        total: Any = 0
        for i, j, part in self._windows(self._padded(x[0])):
            w = weight[..., i, j]
            if w.ndim:
                product = (w @ part.reshape(*part.shape[:2], -1)).reshape(
                    len(part), -1, *part.shape[2:]
                )
            total = total + (product if w.ndim else part * w)
        return np.asarray(total)

    def back(self, a: Array) -> tuple[Array, ...]:  # noqa: D102
        padded = self._padded(np.zeros((len(a), *self.before), a.dtype))
        for i, j, part in self._windows(padded):
            w = self.weight[..., i, j]
            if w.ndim:
                product = (w.T @ a.reshape(*a.shape[:2], -1)).reshape(len(a), -1, *a.shape[2:])
            part += product if w.ndim else a * w
        top, left = self.pads[:2]
        return (padded[:, :, top : top + self.before[1], left : left + self.before[2]],)


Node = tuple[str, list[str], Any]  # its result, its computed sources, Affine or None for ReLU


class Network:
    """A network of affine layers and ReLU: ``nodes`` in order, ``shapes`` of their results."""

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
            given[field[1][0].decode()] = value
        constants = [self.constants.get(name) for name in arguments]
        if kind == "Constant" or (kind == "Identity" and constants[0] is not None):
            self.constants[result] = given["value"] if kind == "Constant" else constants[0]
            return
        sources = [name for name in arguments if name in self.shapes]
        known = len(sources) + sum(c is not None for c in constants) == len(arguments)
        require(sources and known and not others, f"{kind} {result}: its inputs are not read")
        affine = None
        if kind != "Relu":
            affine = self._affine(kind, given, constants, self.shapes[sources[0]])
        zeros = [np.zeros((1, *self.shapes[name]), self.numbers.of(0).dtype) for name in sources]
        value = zeros[0] if affine is None else affine.apply(*zeros)
        self.shapes[result] = value.shape[1:]
        self.nodes.append((result, sources, affine))

    def _affine(
        self, kind: str, given: dict[str, Any], constants: list[Any], shape: tuple[int, ...]
    ) -> Affine:
        """Return what a node of ONNX computes; ``constants`` has None for computed inputs."""
        of = self.numbers.of
        values: list[Any] = [None if c is None else of(c) for c in constants]
        first, second, bias = (*values, None, None)[:3]
        weight: Any = second if first is None else first
        refused = f"{kind} with {sorted(given)} is not read"
        if kind in ("Add", "Sub"):
            sign = -1 if kind == "Sub" else 1
            if first is None and second is None:
                return Sum(np.array([1, sign]), terms=2)
            return Affine(1, sign * weight) if first is None else Affine(sign, weight)
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
        if kind == "Gemm" and not given.get("transA", [0])[0]:
            ones = {given.get(name, 1.0) for name in ("alpha", "beta")} == {1.0}
            require(ones and first is None and second is not None, refused)
            weight = weight if given.get("transB", [0])[0] else weight.T
            return Matrix(weight, bias, terms=max(weight.shape))
        if kind == "MatMul" and second is not None and second.ndim == 2:
            return Matrix(weight.T, terms=max(weight.shape))
        if kind in ("Flatten", "Reshape", "Identity"):
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
        if kind in ("Conv", "AveragePool", "GlobalAveragePool"):
            return self._convolution(kind, given, second, bias, shape, refused)
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
        made = Convolution(weight, None if bias is None else bias.reshape(-1, 1, 1))
        made.terms += weight.shape[-2] * weight.shape[-1] * max(weight.shape[:2])
        made.strides, made.before = given.get("strides", [1, 1]), shape
        made.pads = given.get("pads", [0, 0, 0, 0])
        require(kind == "Conv" or not any(made.pads), refused)
        return made
