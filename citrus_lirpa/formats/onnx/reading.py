"""Networks in ONNX files, read into PyTorch layers.

Files may come from anybody: only the file is read, and weights that it keeps beside it; costs are
checked before anything is allocated or computed, and a network is used only if it computes, on
random inputs, what ONNX's reference evaluator computes.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from ...errors import InputError, ModelError, foreign, require
from ...imports import import_optional
from .checks import MAX_VALUES, check_costs, check_ends, check_operators, check_same, demand
from .graph import Reader, Shapes, graph_inputs, kind, remove_unused
from .operators import read
from .shapes import fold, inferred
from .weights import take_in

if TYPE_CHECKING:
    import onnx

SUFFIX = ".onnx"
#: How names of the files that are read end.
SUFFIXES = (SUFFIX, ".onnx.gz")
INSTALL_HINT = "pip install 'citrus-lirpa[onnx]'"

#: Largest file in bytes; a large network for ImageNet is as large.
_MAX_BYTES = 2**30
#: How often shapes may depend on shapes that were computed before.
_DEPTH = 64
_MIN_OPSET = 7  # Add and others meant something else before
_SAME_OPSET = 9  # until when what is read meant the same; the evaluator fails on earlier ones


def is_onnx(path: Path) -> bool:
    """Return whether a name is that of an ONNX file, compressed or not."""
    return path.name.lower().endswith(SUFFIXES)


def load_onnx(path: Path, *, images: bool = False) -> tuple[nn.Module, tuple[int, ...]]:
    """Read the network of an ONNX file, which gzip may have compressed.

    Subtraction of a mean and division by a standard deviation at the input become a leading
    :class:`~.models.Normalise`. A softmax at the end, which changes no class, is taken off.

    Args:
        path: The file.
        images: Whether its outputs are to be images of the inputs' shape, rather than logits.

    Returns:
        The network in eval mode, on the CPU, and the shape of one input, (C, H, W) for images.
        It maps inputs (N, ...), scaled as the file expects them, to logits (N, K), or to images
        (N, ...), for any N.

    Raises:
        InputError: The file is missing, too large, no ONNX, or keeps its weights in another folder.
        ModelError: It has no single input and such an output, fixed but for the batch; an
            operator is not supported; or PyTorch and the reference evaluator disagree.
        DependencyError: The onnx package is missing.
    """
    path = Path(path)
    return layers_of(parse(path), path, images=images)


def layers_of(
    proto: onnx.ModelProto, path: Path, *, images: bool = False
) -> tuple[nn.Module, tuple[int, ...]]:
    """Do what :func:`load_onnx` does, from the content of the file, which is changed."""
    package = import_optional("onnx", INSTALL_HINT)
    with named_after(path):
        remove_unused(proto.graph)
        if not images:
            _take_off_softmax(proto.graph)
        folded, shapes = _shapes(package, proto)
        check_costs(folded.graph, shapes)
        module = read(Reader(folded.graph, shapes)).eval()
        shape = check_ends(folded, shapes, images)
        check_same(module, proto, shape)
    return module, shape


@contextlib.contextmanager
def named_after(path: Path) -> Iterator[None]:
    """Let whatever is raised of a graph be a ModelError that names its file; memory errors pass."""
    try:
        with foreign(ModelError, "cannot be used"):
            yield
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def parse(path: Path) -> onnx.ModelProto:
    """Return the content of the file, and of weights that it keeps beside it."""
    package = import_optional("onnx", INSTALL_HINT)
    require(path.is_file(), f"{path} is not a file; expected an ONNX file")
    size = path.stat().st_size
    require(size <= _MAX_BYTES, f"{path} has {size} bytes; expected at most {_MAX_BYTES}")
    with foreign(InputError, f"{path} is not an ONNX file"):
        proto = package.load_model_from_string(_bytes(path))
    graph = proto.graph.node and proto.opset_import
    require(graph, f"{path} is not an ONNX file: it holds no graph")
    take_in(proto, path, _MAX_BYTES)
    return proto


def _bytes(path: Path) -> bytes:
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    with gzip.open(path) as file:
        content = file.read(_MAX_BYTES + 1)
    require(len(content) <= _MAX_BYTES, f"{path} holds more than {_MAX_BYTES} bytes")
    return content


def _take_off_softmax(graph: onnx.GraphProto) -> None:
    """Let a network of (N, K) end before the softmax that it ends with: classes stay the same."""
    last = next(n for n in graph.node if graph.output[0].name in n.output)
    if kind(last) in ("Softmax", "LogSoftmax"):
        axis = next((a.i for a in last.attribute if a.name == "axis"), -1)
        demand(axis in (1, -1), f"{last.op_type} '{last.output[0]}' has axis {axis}; expected 1")
        graph.output[0].name = last.input[0]
        graph.node.remove(last)


def _shapes(package: types.ModuleType, proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Shapes]:
    """Return the model with the shapes that it computes as constants, and all that are known.

    They are those of a batch of one: the batch of ``proto``'s input becomes 1 where it is open.
    """
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    demand(opset >= _MIN_OPSET, f"opset is {opset}; expected {_MIN_OPSET} or newer: convert it")
    if opset < _SAME_OPSET:
        _renew(proto)
    inlined = not (len(proto.functions) or len(proto.graph.sparse_initializer))
    demand(inlined, "functions and sparse weights are not supported; inline them")
    name, shape = _input(package, proto.graph)
    package.checker.check_model(proto)
    del proto.graph.value_info[:]  # inferred anew: a file may state other shapes than it has
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    check_operators(proto.graph)
    folded = type(proto)()
    folded.CopyFrom(proto)
    for _ in range(_DEPTH):
        shapes = {name: shape, **inferred(package, folded)}
        if not fold(folded, shapes):
            break
    values = sum(math.prod(sides) for sides in shapes.values())
    expected = f"expected at most {MAX_VALUES}"
    demand(values <= MAX_VALUES, f"its layers have {values} values; {expected}")
    return folded, shapes


def _renew(proto: onnx.ModelProto) -> None:
    """Let a model of opset 7 or 8 be one of 9, whose BatchNormalization is always of channels."""
    for node in proto.graph.node:
        for attribute in [a for a in node.attribute if a.name == "spatial" and a.i == 1]:
            node.attribute.remove(attribute)
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = _SAME_OPSET


def _input(package: types.ModuleType, graph: onnx.GraphProto) -> tuple[str, tuple[int, ...]]:
    """Return the name and the shape (1, ...) of the input, whose batch becomes 1 if open."""
    inputs = graph_inputs(graph)
    demand(
        len(inputs) == len(graph.output) == 1,
        f"it has {len(inputs)} inputs and {len(graph.output)} outputs; expected one each",
    )
    axes = inputs[0].type.tensor_type.shape.dim
    if len(axes) > 1 and not axes[0].dim_value:
        axes[0].dim_value = 1
    shape = tuple(axis.dim_value for axis in axes)
    given = tuple(axis.dim_value or axis.dim_param or "?" for axis in axes)
    demand(
        len(shape) > 1 and shape[0] == 1 and min(shape) > 0 and math.prod(shape) <= MAX_VALUES,
        f"its input is {given}; expected (1, C, H, W) or (N, C, H, W) with C, H, W fixed",
    )
    kind_of_input = inputs[0].type.tensor_type.elem_type
    float32 = package.TensorProto.FLOAT
    demand(kind_of_input == float32, "its input is not float32; convert the file")
    return inputs[0].name, shape
