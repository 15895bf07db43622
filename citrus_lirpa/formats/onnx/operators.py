"""The ONNX operators that can be read, each as layers that auto_LiRPA can bound.

A new operator is one function ``(reader, node, options)``, which adds layers to the reader, and
one entry in ``LAYERS``; ``options`` are the node's attributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ...errors import ModelError
from . import curves, pieces, windows
from .graph import Reader, kind, per_channel, unusable
from .layers import Affine, Branches, Concat, Permute, Shaped, Sum, with_weights

if TYPE_CHECKING:
    import onnx

Options = dict[str, Any]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a layer with a bias: without one, auto_LiRPA sees a product that it cannot bound."""
    linear: Any = skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    return with_weights(linear, weight, torch.zeros(len(weight)) if bias is None else bias)


def _depthwise(scales: Tensor, shifts: Tensor) -> nn.Conv2d:
    """Return a layer of a factor and a summand for each channel.

    auto_LiRPA bounds it as patches too, unlike ``x * scale``.
    """
    channels = len(scales)
    conv: Any = skip_init(nn.Conv2d, channels, channels, 1, groups=channels)
    return with_weights(conv, scales.reshape(-1, 1, 1, 1), shifts)


def _gemm(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    if options.get("transA", 0):
        raise unusable(node, "transposes its input; expected transA = 0")
    weight, bias = reader.constant(node, 1) * options.get("alpha", 1.0), None
    weight = weight if options.get("transB", 0) else weight.T
    if reader.given(node, 2):
        bias = (reader.constant(node, 2) * options.get("beta", 1.0)).expand(1, len(weight))[0]
    reader.add(node, _linear(weight, bias), node.input[0])


def _matmul(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    weight, shape = reader.constant(node, 1), reader.shapes.get(node.input[0], ())
    if weight.ndim != 2 or len(shape) != 2:
        sizes = f"{shape} by {tuple(weight.shape)}"
        raise unusable(node, f"multiplies {sizes}; expected (N, F) by (F, K)")
    reader.add(node, _linear(weight.T, None), node.input[0])


def _arithmetic(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read Add, Sub, Mul, Div of a value and a constant, or of two values."""
    first, second = node.input
    shapes = [reader.shapes.get(name, ()) for name in (first, second, node.output[0])]
    if first in reader.where and second in reader.where:
        if node.op_type in ("Mul", "Div") and len(shapes[0]) == len(shapes[1]):
            return reader.add(node, curves.Applied(node.op_type.lower()), first, second)
        if node.op_type not in ("Add", "Sub") or shapes[0] != shapes[1]:
            expected = "expected one shape, or for products and quotients as many axes"
            raise unusable(node, f"of two computed values {shapes[0]}, {shapes[1]}; {expected}")
        return reader.add(node, Sum(1 if node.op_type == "Add" else -1), first, second)
    turned = first not in reader.where
    name, c = (second, reader.constant(node, 0)) if turned else (first, reader.constant(node, 1))
    if turned and node.op_type == "Div" and shapes[2] == shapes[1]:
        inverse = nn.Sequential(curves.Applied("reciprocal"), Affine(c, None))
        return reader.add(node, inverse, name)
    if shapes[2] != shapes[turned] or (turned and node.op_type == "Div"):
        expected = "expected one that does not enlarge the value"
        raise unusable(node, f"with a constant of shape {tuple(c.shape)}; {expected}")
    scale: Tensor | None
    shift: Tensor | None
    if node.op_type == "Mul":
        scale, shift = c, None
    elif node.op_type == "Div":
        scale, shift = 1 / c, None
    elif node.op_type == "Sub":
        scale, shift = (torch.tensor(-1.0), c) if turned else (None, -c)
    else:
        scale, shift = None, c
    _affine(reader, node, name, scale, shift)


def _affine(
    reader: Reader, node: onnx.NodeProto, name: str, scale: Tensor | None, shift: Tensor | None
) -> None:
    """Add ``scale * value + shift`` as the kind of layer that auto_LiRPA bounds best."""
    shape, before = reader.shapes[name], reader.before(name)
    constants = (constant for constant in (scale, shift) if constant is not None)
    if any(per_channel(constant.numpy(), shape) is None for constant in constants):
        full = (t if t is None else t.expand(shape).clone() for t in (scale, shift))
        return reader.add(node, Affine(*full), name)
    scales = (torch.tensor(1.0) if scale is None else scale).reshape(-1).expand(shape[1]).clone()
    shifts = (torch.tensor(0.0) if shift is None else shift).reshape(-1).expand(shape[1]).clone()
    if scale is None and before is not None and _without_bias(before):  # MatMul, Add: one layer
        before.bias = nn.Parameter(shifts)
        reader.skip(node, name)
    elif len(shape) == 4:
        reader.add(node, _depthwise(scales, shifts), name)
    else:
        reader.add(node, Affine(scales[None], shifts[None]), name)


def _without_bias(layer: nn.Module | None) -> bool:
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        return False
    return layer.bias is None or not bool(layer.bias.any())


def _batchnorm(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    if options.get("training_mode", 0) or len(node.output) > 1:
        raise unusable(node, "is in training mode; export eval")
    kinds = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    shape = reader.shapes[node.input[0]]
    if len(shape) not in kinds:
        raise unusable(node, f"of {shape}; expected 2 or 4 axes")
    norm = kinds[len(shape)](shape[1], eps=options.get("epsilon", 1e-5))
    with_weights(norm, reader.constant(node, 1), reader.constant(node, 2))
    norm.running_mean, norm.running_var = reader.constant(node, 3), reader.constant(node, 4)
    reader.add(node, norm, node.input[0])


def _concat(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    axis = options["axis"] % len(reader.shapes[node.input[0]])
    if axis == 0:
        raise unusable(node, "joins batches; expected another axis")
    reader.add(node, Concat(axis), *node.input)


def _transpose(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    axes = range(len(reader.shapes[node.input[0]]))
    order = tuple(options.get("perm", tuple(axes)[::-1]))
    if order[0] != 0:
        raise unusable(node, "moves the batch; expected it to stay first")
    reader.add(node, Permute(*order), node.input[0])


def _reshape(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Read reshaping, however it is written; the shapes are those of a batch of one."""
    before, after = (reader.shapes.get(name, ()) for name in (node.input[0], node.output[0]))
    if before == after:
        reader.skip(node, node.input[0])
    elif after == (1, math.prod(before)):
        reader.add(node, nn.Flatten(), node.input[0])
    elif after[:1] == (1,):
        reader.add(node, Shaped(*after[1:]), node.input[0])
    else:
        raise unusable(node, f"from {before} to {after}; expected the batch to stay first")


def _function(make: Callable[[], nn.Module]) -> Callable[..., None]:
    """Return what reads a function of single values."""

    def add(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
        reader.add(node, make(), node.input[0])

    return add


def _with_alpha(make: Callable[[float], nn.Module], default: float) -> Callable[..., None]:
    """Return what reads a function of single values that has a number alpha."""

    def add(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
        reader.add(node, make(options.get("alpha", default)), node.input[0])

    return add


def _applied(name: str) -> Callable[..., None]:
    """Return what reads a function of torch of single values."""
    return _function(lambda: curves.Applied(name))


def _nothing(reader: Reader, node: onnx.NodeProto, options: Options) -> None:
    """Skip Identity, and Dropout outside training."""
    reader.skip(node, node.input[0])


#: What can be read, by ONNX's name.
LAYERS: dict[str, Callable[..., None]] = {
    "Abs": _applied("abs"),
    "Add": _arithmetic,
    "AveragePool": windows.average_pool,
    "BatchNormalization": _batchnorm,
    "Celu": _with_alpha(nn.CELU, 1.0),
    "Clip": pieces.clip,
    "Concat": _concat,
    "Conv": windows.conv,
    "Div": _arithmetic,
    "Dropout": _nothing,
    "Elu": _with_alpha(nn.ELU, 1.0),
    "Exp": _applied("exp"),
    "Flatten": _reshape,
    "Gather": pieces.gather,
    "Erf": curves.erf,
    "Gelu": curves.gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": windows.global_average_pool,
    "HardSigmoid": curves.hard_sigmoid,
    "HardSwish": _function(nn.Hardswish),
    "Identity": _nothing,
    "LeakyRelu": _with_alpha(nn.LeakyReLU, 0.01),
    "Log": _applied("log"),
    "LogSigmoid": _function(nn.LogSigmoid),
    "MatMul": _matmul,
    "Max": pieces.extreme,
    "MaxPool": windows.max_pool,
    "Min": pieces.extreme,
    "Mish": _function(nn.Mish),
    "Mul": _arithmetic,
    "Neg": lambda reader, node, _: _affine(reader, node, node.input[0], torch.tensor(-1.0), None),
    "PRelu": pieces.prelu,
    "Pad": windows.pad,
    "Pow": curves.power,
    "Reciprocal": _applied("reciprocal"),
    "ReduceMean": pieces.reduction,
    "ReduceSum": pieces.reduction,
    "Relu": _function(nn.ReLU),
    "Reshape": _reshape,
    "Selu": curves.selu,
    "Sigmoid": _function(nn.Sigmoid),
    "Slice": pieces.part,
    "Softplus": _function(nn.Softplus),
    "Softsign": _function(nn.Softsign),
    "Split": pieces.split,
    "Sqrt": _applied("sqrt"),
    "Squeeze": _reshape,
    "Sub": _arithmetic,
    "Swish": curves.swish,
    "Tanh": _function(nn.Tanh),
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
#: Operators whose first input is a value, and whose other inputs are shapes and the like.
ONE_INPUT = (
    *("Dropout", "Gather", "Pad", "Pow", "ReduceMean", "ReduceSum", "Reshape", "Slice", "Split"),
    *("Squeeze", "Unsqueeze"),
)


def read(reader: Reader) -> nn.Module:
    """Return the graph as one module, with a leading Normalise where it begins with one.

    Raises:
        ModelError: An operator is not supported.
    """
    from onnx import helper

    output = reader.graph.output[0].name
    reader.nodes = curves.joined(reader)
    for node in _needed(reader, output):
        options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        LAYERS[node.op_type](reader, node, options)
    if not reader.layers or reader.index(output) != len(reader.layers):
        raise ModelError(f"output '{output}' is not the result of the last layer")
    if all(source == (i,) for i, source in enumerate(reader.sources)):
        first = [] if reader.normalise is None else [reader.normalise]
        return nn.Sequential(*first, *reader.layers)
    branches = Branches(reader.layers, reader.sources)
    return branches if reader.normalise is None else nn.Sequential(reader.normalise, branches)


def unknown_operator(node: onnx.NodeProto) -> str:
    """Return the message for an operator that is not known."""
    return f"operator {kind(node)} is not supported; docs/howto/onnx.md lists those that are"


def _needed(reader: Reader, output: str) -> list[onnx.NodeProto]:
    """Return the nodes that ``output`` depends on, in order, without those for shapes."""
    needed, nodes = {output}, []
    for node in reversed(reader.nodes):
        if needed.isdisjoint(node.output) or node.output[0] in reader.where:
            continue
        if kind(node) not in LAYERS:
            raise ModelError(unknown_operator(node))
        nodes.append(node)
        needed.update(node.input[:1] if node.op_type in ONE_INPUT else node.input)
    return nodes[::-1]
