"""ONNX graphs of any shapes as networks on flat vectors.

Every value is kept as an affine function of the inputs and of the results of the elementwise
functions before it, whose matrices come from ONNX's reference evaluator, column by column. So all
operators that are affine are read alike, whatever their axes; the networks must be small.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ModelError
from ...imports import import_optional
from ..flat_network import FUNCTIONS, Dense, FlatNetwork
from .affine_value import AffineValue, joined
from .checks import demand
from .flat_pieces import PIECES
from .graph import graph_inputs, kind, unusable
from .reading import INSTALL_HINT, named_after
from .reference import evaluator_of

if TYPE_CHECKING:
    import onnx

#: Most numbers in all matrices, and most evaluations of an operator.
_MOST_NUMBERS = 2**26
_MOST_EVALUATIONS = 200_000

#: Operators that are affine in their first input, the others being constants.
_AFFINE_IN_FIRST = frozenset(
    "AveragePool BatchNormalization Conv Dropout Expand Flatten Gather GlobalAveragePool "
    "Identity Pad ReduceMean ReduceSum Reshape Slice Split Squeeze Transpose Unsqueeze".split()
)
#: Operators that are linear in all their inputs together.
_LINEAR = frozenset("Add Concat Neg Sub Sum".split())
#: Operators that are affine in one input, whichever it is, while the others are constants.
_AFFINE_IN_ONE = frozenset("Gemm MatMul Mul".split())
#: Operators whose results are constants, for shapes are fixed.
_CONSTANT = frozenset("Constant ConstantOfShape Shape".split())
#: All operators that can be read.
OPERATORS = tuple(
    sorted(
        _AFFINE_IN_FIRST | _LINEAR | _AFFINE_IN_ONE | _CONSTANT | FUNCTIONS.keys() | PIECES.keys()
    )
)


def flat_of(proto: onnx.ModelProto, path: Path) -> FlatNetwork:
    """Read a small network of an ONNX graph, with any number of inputs and outputs.

    It keeps the file's names and shapes of these. The graph is changed.

    Raises:
        ModelError: Shapes are not fixed, an operator is not known, or the network is too large.
    """
    package = import_optional("onnx", INSTALL_HINT)
    with named_after(path):
        return _Compiler(package, proto).compiled()


class _Compiler:
    """Reads one graph; ``values`` are its tensors so far."""

    def __init__(self, package: Any, proto: onnx.ModelProto):
        self.package, self.proto = package, proto
        self.steps: list[Dense | str] = []
        self.sources: list[tuple[int, ...]] = []
        self.sizes: list[int] = []
        self.numbers = self.evaluations = 0
        self.values = {
            tensor.name: AffineValue(_in_float64(package.numpy_helper.to_array(tensor)), {})
            for tensor in proto.graph.initializer
        }

    def compiled(self) -> FlatNetwork:
        graph = self.proto.graph
        inputs = {value.name: self._shape(value) for value in graph_inputs(graph)}
        self.sizes = [sum(math.prod(shape) for shape in inputs.values())]
        demand(self.sizes[0] ** 2 <= _MOST_NUMBERS, "it is too large to be read as dense matrices")
        begin = 0
        for name, shape in inputs.items():
            size = math.prod(shape)
            columns = np.eye(self.sizes[0])[begin : begin + size]
            self.values[name] = AffineValue(np.zeros(shape), {0: columns.reshape(*shape, -1)})
            begin += size
        for node in graph.node:
            self._read(node)
        last = [self.values[value.name] for value in graph.output]
        self._dense(joined(last))
        outputs = {v.name: a.constant.shape for v, a in zip(graph.output, last, strict=True)}
        return FlatNetwork(self.steps, self.sources, inputs, outputs).eval()

    def _shape(self, value: onnx.ValueInfoProto) -> tuple[int, ...]:
        tensor = value.type.tensor_type
        shape = tuple(axis.dim_value for axis in tensor.shape.dim)
        if shape and not shape[0]:  # an open batch
            shape = (1, *shape[1:])
        if min(shape, default=1) < 1 or tensor.elem_type != self.package.TensorProto.FLOAT:
            raise ModelError(
                f"input '{value.name}' is no float32 tensor of fixed shape; export it so"
            )
        return shape

    def _read(self, node: onnx.NodeProto) -> None:
        operator = kind(node)
        if operator not in OPERATORS and operator != "Cast":
            raise ModelError(
                f"operator {operator} is not supported (known: {', '.join(OPERATORS)})"
            )
        taken: list[Any] = [self.values[name] if name else None for name in node.input]
        varying = [i for i, value in enumerate(taken) if value is not None and value.varies]
        if operator in _CONSTANT and taken:
            taken = [AffineValue(v.constant, {}) for v in taken if v is not None]
            varying = []
        affine = (
            not varying
            or operator in _LINEAR
            or (operator in _AFFINE_IN_FIRST and varying == [0])
            or (operator in _AFFINE_IN_ONE and len(varying) == 1)
            or (operator == "Div" and varying == [0])
        )
        if operator == "Cast":
            self._cast(node, taken[0])
        elif affine:
            self._apply(node, taken, varying)
        elif operator in PIECES:
            options = {a.name: self.package.helper.get_attribute_value(a) for a in node.attribute}
            value = PIECES[operator](self._elementwise, node, taken, options)
            self._keep(node.output[0], value)
        elif operator in FUNCTIONS:
            self.values[node.output[0]] = self._elementwise(operator, *taken)
        else:
            raise unusable(node, "of computed values is not supported")

    def _cast(self, node: onnx.NodeProto, value: Any) -> None:
        """Take a cast between floating-point types as none: margins allow for rounding."""
        types = self.package.TensorProto
        to = next(a.i for a in node.attribute if a.name == "to")
        if not value.varies:
            self._apply(node, [value], [])
        elif to in (types.FLOAT, types.DOUBLE):
            self.values[node.output[0]] = value
        else:
            raise unusable(node, "rounds computed values")

    def _apply(self, node: onnx.NodeProto, taken: list[Any], varying: list[int]) -> None:
        """Compute an affine operator: at zero, then at each column of each vector."""
        run = _runner(self.package, self.proto, node)
        at_zero = [
            v if v is None else np.zeros_like(v.constant) if i in varying else v.constant
            for i, v in enumerate(taken)
        ]
        columns = {n: self.sizes[n] for i in varying for n in taken[i].parts}
        self.evaluations += sum(columns.values()) + 2
        demand(self.evaluations <= _MOST_EVALUATIONS, "it is too large to be read column by column")
        zero = run(at_zero)
        shifted = run([v if v is None else v.constant for v in taken]) if varying else zero
        parts: list[dict[int, np.ndarray]] = [{} for _ in node.output]
        for vector, size in columns.items():
            found: list[list[np.ndarray]] = [[] for _ in node.output]
            for column in range(size):
                arguments = list(at_zero)
                for i in varying:
                    if vector in taken[i].parts:
                        arguments[i] = taken[i].parts[vector][..., column]
                for number, result in enumerate(run(arguments)):
                    found[number].append(result - zero[number])
            for number, results in enumerate(found):
                parts[number][vector] = np.stack(results, axis=-1)
        for number, name in enumerate(node.output):
            if name:
                self._keep(name, AffineValue(shifted[number], parts[number]))

    def _keep(self, name: str, value: AffineValue) -> None:
        self.numbers += sum(part.size for part in value.parts.values())
        demand(self.numbers <= _MOST_NUMBERS, "it is too large to be read as dense matrices")
        self.values[name] = value

    def _elementwise(self, operator: str, *taken: AffineValue) -> AffineValue:
        """Apply a function to vectors, broadcast against each other; the result is a new vector."""
        shape = np.broadcast_shapes(*(value.constant.shape for value in taken))
        places = tuple(self._dense(value.broadcast(shape).flat()) for value in taken)
        new = self._step(operator, places, math.prod(shape))
        return AffineValue(np.zeros(shape), {new: np.eye(math.prod(shape)).reshape(*shape, -1)})

    def _dense(self, value: AffineValue) -> int:
        parts = value.parts or {0: np.zeros((len(value.constant), self.sizes[0]))}
        return self._step(Dense(value.constant, parts.values()), tuple(parts), len(value.constant))

    def _step(self, step: Dense | str, sources: tuple[int, ...], size: int) -> int:
        self.steps.append(step)
        self.sources.append(sources)
        self.sizes.append(size)
        return len(self.steps)


def _runner(
    package: Any, proto: onnx.ModelProto, node: onnx.NodeProto
) -> Callable[[list[Any]], list[np.ndarray]]:
    """Return a function that computes one node of float64 arrays by the reference evaluator."""
    helper, names = package.helper, dict.fromkeys(name for name in node.input if name)
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_value_info(name, package.TypeProto()) for name in names],
        [helper.make_value_info(name, package.TypeProto()) for name in node.output if name],
    )
    evaluator = evaluator_of(helper.make_model(graph, opset_imports=proto.opset_import))

    def run(arrays: list[Any]) -> list[np.ndarray]:
        given = {n: a for n, a in zip(node.input, arrays, strict=True) if n}
        results = iter(evaluator.run(None, given))
        return [_in_float64(next(results)) if name else np.zeros(0) for name in node.output]

    return run


def _in_float64(array: Any) -> np.ndarray:
    """Return an array, in float64 where it is of floating-point numbers."""
    array = np.asarray(array)
    return array.astype(np.float64) if array.dtype.kind == "f" else array
