"""What a graph of an ONNX file must be to be used: its ends, operators, costs and results."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ...errors import ModelError, require
from .graph import Shapes, graph_inputs, kind
from .operators import LAYERS, unknown_operator
from .reference import evaluator_of
from .shapes import OPERATORS

if TYPE_CHECKING:
    import onnx

#: Most values in all layers, and most multiplications, for one input: a large network for ImageNet
#: needs as many.
MAX_VALUES, _MAX_PRODUCTS = 2**26, 2**34
#: How far results may be off from those of another program, in 1 plus the largest.
TOLERANCE = 1e-5
#: What a value of a pooling layer costs: the reference evaluator computes it in a Python loop.
_POOLING = 256


def demand(holds: object, message: str) -> None:
    """Raise ModelError with ``message`` unless ``holds``."""
    require(holds, message, ModelError)


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's first tensor; the CPU for a module without any."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((t.device for t in tensors), torch.device("cpu"))


def check_ends(proto: onnx.ModelProto, shapes: Shapes, images: bool) -> tuple[int, ...]:
    """Return the shape of one input, once the output is known to be logits (1, K), or images."""
    output = shapes.get(proto.graph.output[0].name, ())
    given = shapes[graph_inputs(proto.graph)[0].name]
    if images:
        demand(output == given, f"its output is {output}; expected images {given}, as its input")
    else:
        demand(
            len(output) == 2 and output[0] == 1 and output[1] > 1,
            f"its output is {output}; expected logits (1, K) or (N, K), K >= 2",
        )
    return given[1:]


def check_operators(graph: onnx.GraphProto) -> None:
    """Refuse operators that are not known, and may not end."""
    for node in graph.node:
        demand(kind(node) in (*LAYERS, *OPERATORS), unknown_operator(node))


def check_costs(graph: onnx.GraphProto, shapes: Shapes) -> None:
    """Refuse more multiplications than a network needs."""
    known = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer} | shapes
    products = sum(_products(node, known) for node in graph.node)
    expected = f"expected at most {_MAX_PRODUCTS}"
    demand(products <= _MAX_PRODUCTS, f"it takes {products} multiplications; {expected}")


def _products(node: onnx.NodeProto, known: Shapes) -> int:
    """Return about how many multiplications ``node`` takes for one input."""
    demand(
        node.output[0] in known,
        f"the shape of {node.op_type} '{node.output[0]}' cannot be inferred; "
        "export with shapes fixed but for the batch",
    )
    values = math.prod(known[node.output[0]])
    if node.op_type in ("Conv", "Gemm", "MatMul"):
        weight = known.get(node.input[1], ()) if len(node.input) > 1 else ()
        return values * (math.prod(weight[1:]) if node.op_type == "Conv" else max((1, *weight)))
    return values * (_POOLING if node.op_type in ("AveragePool", "MaxPool") else 1)


@torch.no_grad()
def check_same(module: nn.Module, proto: onnx.ModelProto, shape: Sequence[int]) -> None:
    """Compare logits with ONNX's reference evaluator on three random images."""
    evaluator = evaluator_of(proto)
    name = graph_inputs(proto.graph)[0].name
    x = torch.rand((3, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    with np.errstate(all="ignore"):
        parts = [evaluator.run(None, {name: image.numpy()})[0] for image in x.split(1)]
    wanted = torch.from_numpy(np.concatenate(parts))
    found = module(x.to(device_of(module))).float().cpu()
    off = difference(found, wanted)
    if not off <= TOLERANCE:
        raise ModelError(
            f"PyTorch gives logits {tuple(found.shape)}, off by {off:.2g} of their size from those "
            f"{tuple(wanted.shape)} of ONNX's reference evaluator; {why_off(module, x)}"
        )


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return how far results are off, in 1 plus the largest; NaN where the shapes differ."""
    if found.shape != wanted.shape:
        return math.nan
    return float((found - wanted).abs().max() / (1 + wanted.abs().max()))


@torch.no_grad()
def why_off(module: nn.Module, x: torch.Tensor) -> str:
    """Say why a network's results on inputs (n, ...) are not those of another program."""
    x = x.to(device_of(module))
    try:
        exact = copy.deepcopy(module).double()(x.double()).float()
    except RuntimeError:  # tensors that its forward makes stay float32
        return "a layer is not understood"
    rounding = difference(module(x).float(), exact)
    if not rounding > TOLERANCE:
        return "a layer is not understood"
    return (
        f"float32 alone is off by {rounding:.2g} from float64, as where a layer divides by "
        "values near 0; keep them away from 0"
    )
