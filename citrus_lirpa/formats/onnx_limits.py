"""What an ONNX graph may cost, told before anything of it is computed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..errors import ModelError
from .onnx_graph import kind
from .onnx_operators import LAYERS

if TYPE_CHECKING:
    import onnx

#: Operators beside the layers that may compute shapes, as of a Reshape; all end at once.
_OF_SHAPES = ("Cast", "Concat", "Constant", "Gather", "Shape", "Slice")
#: Most multiplications for one input; a large network of ImageNet has as many.
_MAX_PRODUCTS = 2**34
#: The reference evaluator pools in a loop of Python, value by value.
_POOLING = 256


def forget_unused(graph: onnx.GraphProto) -> None:
    """Remove the nodes that the output does not depend on: nobody need compute them."""
    wanted = {value.name for value in graph.output}
    used = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            used.append(node)
    del graph.node[:]
    graph.node.extend(used[::-1])


def check_costs(graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse operators that may not end, and more multiplications than a network needs.

    shapes: of every value whose shape is known, for a batch of one. Raises ModelError.
    """
    known = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer} | shapes
    total = 0
    for node in graph.node:
        if kind(node) not in (*LAYERS, *_OF_SHAPES):
            raise ModelError(f"operator {kind(node)} is not supported (known: {', '.join(LAYERS)})")
        total += _products(node, known)
    if total > _MAX_PRODUCTS:
        raise ModelError(f"it takes {total} multiplications; expected at most {_MAX_PRODUCTS}")


def _products(node: onnx.NodeProto, known: dict[str, tuple[int, ...]]) -> int:
    if node.output[0] not in known:
        raise ModelError(
            f"the shape of {node.op_type} '{node.output[0]}' cannot be told; "
            "export with shapes fixed but for the batch"
        )
    values = math.prod(known[node.output[0]])
    if node.op_type in ("Conv", "Gemm", "MatMul"):
        weight = known.get(node.input[1], ()) if len(node.input) > 1 else ()
        return values * (math.prod(weight[1:]) if node.op_type == "Conv" else max((1, *weight)))
    return values * (_POOLING if node.op_type == "AveragePool" else 1)
