#!/usr/bin/env bash
# onnxruntime leaves the dilation out of account where MaxPool pads by auto_pad.
#
# By the standard, SAME_UPPER pads so that there are ceil(side / stride) windows of
# (kernel - 1) * dilation + 1 numbers. onnxruntime pads for windows of `kernel` numbers: an image of 8 x 8
# becomes one of 6 x 6, where ONNX's own shape inference, and its evaluator, have 8 x 8. onnxruntime warns that
# it expected another shape, and goes on. Of a convolution it refuses the same
# attributes: "Dilation not supported for AutoPadType::SAME_UPPER". A network that is proved robust by the
# standard is another one than what onnxruntime runs.
#
# Seen with onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (3 x 3 maxima of an 8 x 8 image):
#   SAME_UPPER, dilations 1: inferred (8, 8), evaluator (8, 8), onnxruntime (8, 8)
#   SAME_UPPER, dilations 2: inferred (8, 8), evaluator (8, 8), onnxruntime (6, 6)
#   explicit pads of 2, dilations 2: inferred (8, 8), evaluator (8, 8), onnxruntime (8, 8)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, shape_inference
from onnx.reference import ReferenceEvaluator

CASES = {
    "SAME_UPPER, dilations 1": {"auto_pad": "SAME_UPPER"},
    "SAME_UPPER, dilations 2": {"auto_pad": "SAME_UPPER", "dilations": [2, 2]},
    "explicit pads of 2, dilations 2": {"pads": [2, 2, 2, 2], "dilations": [2, 2]},
}


def shapes(options):
    """The height and width that are inferred, and those of what both compute."""
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], **options)
    graph = helper.make_graph(
        [node],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, "height", "width"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    with_inner = helper.make_graph(
        [node, helper.make_node("Relu", ["y"], ["z"])],
        "pool",
        graph.input,
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 1, "height", "width"])],
    )
    inner = helper.make_model(with_inner, opset_imports=model.opset_import, ir_version=8)
    (value,) = shape_inference.infer_shapes(inner, strict_mode=True).graph.value_info
    inferred = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)[2:]
    x = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    runs = (ReferenceEvaluator(model).run(None, {"x": x}), session.run(None, {"x": x}))
    return [inferred, *(run[0].shape[2:] for run in runs)]


found = {name: shapes(options) for name, options in CASES.items()}
for name, (inferred, evaluator, runtime) in found.items():
    print(f"{name}: inferred {inferred}, evaluator {evaluator}, onnxruntime {runtime}")
seen = [[(8, 8)] * 3, [(8, 8), (8, 8), (6, 6)], [(8, 8)] * 3]
sys.exit(list(found.values()) != seen)
PY
