"""Shapes that an ONNX graph computes while it runs, such as that of a Reshape, made constants.

Exporters write ``x.view(x.size(0), -1)`` so: Shape, Gather, Unsqueeze, Concat, Reshape. For a batch
of one all of it is known beforehand.
"""

from __future__ import annotations

import math
import types
from typing import TYPE_CHECKING

import numpy as np

from .graph import Shapes, constant_value, kind, remove_unused
from .reference import evaluator_of

if TYPE_CHECKING:
    import onnx

#: Operators that compute shapes, of shapes and constants; none of them takes long.
OPERATORS = (
    "Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Gather", "Mul", "Reshape",
    "Shape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze",
)  # fmt: skip
#: The most values that a shape, or what one is computed from, has.
_MOST = 64


def inferred(package: types.ModuleType, proto: onnx.ModelProto) -> Shapes:
    """Return the shapes that can be inferred."""
    inferred = package.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    shapes = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        tensor = value.type.tensor_type
        sides = tuple(axis.dim_value for axis in tensor.shape.dim)
        if tensor.HasField("shape") and all(side > 0 for side in sides):
            shapes[value.name] = sides
    return shapes


def fold(proto: onnx.ModelProto, shapes: Shapes) -> bool:
    """Replace whatever computes shapes in a model by its result, as far as it is known.

    ``shapes`` are those of its values that are known, for a batch of one. Return whether anything
    was replaced.
    """
    from onnx import numpy_helper

    graph = proto.graph
    known = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if math.prod(tensor.dims) <= _MOST
    }
    before = len(known)
    for node in graph.node:
        value = _value(proto, node, known, shapes)
        if value is not None and value.dtype == np.int64 and value.size <= _MOST:
            known[node.output[0]] = value
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    if len(known) == before:
        return False
    kept = [node for node in graph.node if node.output[0] not in known]
    del graph.node[:]
    graph.node.extend(kept)
    remove_unused(graph)
    return True


def _value(
    proto: onnx.ModelProto, node: onnx.NodeProto, known: dict[str, np.ndarray], shapes: Shapes
) -> np.ndarray | None:
    """Return what a node computes of shapes, or None."""
    if kind(node) not in OPERATORS or len(node.output) > 1:
        return None
    if node.op_type == "Constant":
        small = all(math.prod(attribute.t.dims) <= _MOST for attribute in node.attribute)
        return constant_value(node) if small else None
    if node.op_type == "Shape":
        sides = shapes.get(node.input[0])
        options = {attribute.name: attribute.i for attribute in node.attribute}
        part = slice(options.get("start", 0), options.get("end"))
        return None if sides is None else np.array(sides[part], dtype=np.int64)
    if not all(name in known for name in node.input if name):
        return None
    if node.op_type == "ConstantOfShape" and math.prod(known[node.input[0]].tolist()) > _MOST:
        return None
    return _computed(proto, node, known)


def _computed(
    proto: onnx.ModelProto, node: onnx.NodeProto, known: dict[str, np.ndarray]
) -> np.ndarray:
    from onnx import TensorProto, helper, numpy_helper

    given = [numpy_helper.from_array(known[name], name) for name in node.input if name]
    result = helper.make_tensor_value_info(node.output[0], TensorProto.INT64, None)
    alone = helper.make_graph([node], "shape", [], [result], given)
    opsets = list(proto.opset_import)
    evaluator = evaluator_of(helper.make_model(alone, opset_imports=opsets))
    return np.asarray(evaluator.run(None, {})[0])
