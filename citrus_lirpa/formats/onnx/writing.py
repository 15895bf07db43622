"""Networks written as ONNX files, for other tools."""

from __future__ import annotations

import copy
import io
import types
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...bounds import lirpa
from ...bounds.tracing import modes_restored
from ...bounds.weight_norms import without_norms
from ...errors import ModelError, is_out_of_memory, reason
from ...imports import import_optional
from ..atomic import write_bytes
from .checks import check_same, device_of
from .reading import INSTALL_HINT
from .shapes import fold, inferred

if TYPE_CHECKING:
    import onnx

#: Some other verifiers read nothing newer.
_OPSET = 13
#: Torch's own for Softplus, beyond which the line that torch takes is off by 2e-9.
_SOFTPLUS_THRESHOLD = 20


def save_onnx(model: nn.Module, shape: Sequence[int], path: Path) -> None:
    """Write a network, in eval mode, as an ONNX file from "input" (1, C, H, W) to "output".

    The file appears once it is whole and known to compute what the model does.

    Args:
        model: A network from images (N, C, H, W) to logits.
        shape: (C, H, W) of one image.
        path: The file.

    Raises:
        ModelError: The model cannot be exported, or the file would compute something else.
        CheckpointError: The file cannot be written.
        DependencyError: The onnx package or auto_LiRPA is missing.
    """
    proto = exported(model, shape)
    _keep_logarithms_finite(proto)
    with modes_restored(model):
        model.eval()
        check_same(model, copy.deepcopy(proto), tuple(shape))
    write_bytes(Path(path), proto.SerializeToString())


def exported(model: nn.Module, shape: Sequence[int], *, folded: bool = True) -> onnx.ModelProto:
    """Return a network, in eval mode, as an ONNX model; what it computes is not compared.

    Args:
        model: A network from images (N, C, H, W) to logits.
        shape: (C, H, W) of one image.
        folded: Whether BatchNorm may go into the layer before it, which rounds its weights.

    Raises:
        ModelError: The model cannot be exported.
        DependencyError: The onnx package or auto_LiRPA is missing.
    """
    package = import_optional("onnx", INSTALL_HINT)
    mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    example = torch.zeros(1, *shape, dtype=torch.float32, device=device_of(model))
    file: Any = io.BytesIO()
    model, _ = without_norms(model)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Softplus) and layer.threshold < _SOFTPLUS_THRESHOLD:
            raise ModelError(
                f"this model cannot be written as ONNX: layer '{name}' is a Softplus with "
                f"threshold {layer.threshold:g}, but ONNX has none; use {_SOFTPLUS_THRESHOLD} "
                "or more"
            )
    with modes_restored(model), lirpa.parsing(), warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.onnx")
        for message in ("You are using the legacy TorchScript", "It is recommended that constant"):
            warnings.filterwarnings("ignore", message=message)
        model.eval()
        try:
            torch.onnx.export(
                model,
                (example,),
                file,
                dynamo=False,
                training=mode,
                opset_version=_OPSET,
                input_names=["input"],
                output_names=["output"],
            )
        except (RuntimeError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise ModelError(f"this model cannot be written as ONNX: {reason(error)}") from error
    return _without_shapes(package, package.load_model_from_string(file.getvalue()))


def _without_shapes(package: types.ModuleType, proto: onnx.ModelProto) -> onnx.ModelProto:
    """Make constants of shapes and widths of paddings, which the exporter computes by nodes."""
    if any(node.op_type in ("ConstantOfShape", "Shape") for node in proto.graph.node):
        while fold(proto, inferred(package, proto)):
            pass
    return proto


def _keep_logarithms_finite(proto: onnx.ModelProto) -> None:
    """Write log(sigmoid(x)) as -softplus(-x).

    Where a sigmoid rounds to 0, its logarithm is minus infinity: below -18 in onnxruntime.
    """
    from onnx import helper

    uses = Counter(name for node in proto.graph.node for name in node.input)
    uses.update(output.name for output in proto.graph.output)
    sigmoids = {node.output[0]: node for node in proto.graph.node if node.op_type == "Sigmoid"}
    nodes = []
    for node in proto.graph.node:
        if node.op_type == "Log" and node.input[0] in sigmoids and uses[node.input[0]] == 1:
            sigmoids[node.input[0]].op_type = node.op_type = "Neg"
            softplus = node.input[0] + "_softplus"
            nodes.append(helper.make_node("Softplus", [node.input[0]], [softplus], name=softplus))
            node.input[0] = softplus
        nodes.append(node)
    kept = [copy.deepcopy(node) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
