#!/usr/bin/env bash
# OpenVINO crops a ConvTranspose with output_shape and auto_pad SAME_UPPER as if it were SAME_LOWER.
#
# ONNX lets output_shape name the size of the result. Of an odd number of pixels too many, SAME_UPPER cuts the greater half
# off the end, and SAME_LOWER off the beginning. OpenVINO does the latter for both once output_shape is given, so that
# each output is the pixel's behind it. Without output_shape, where the size of "same" is the same, it is right, and so it
# is in onnxruntime and in ONNX's evaluator. Its paddings are worked out anew since pull request 32854 of openvino; of
# SAME_UPPER we found no report.
#
# Seen with openvino 2026.4.1, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (1 2 3 with the kernel
# 1 10 100 and stride 2, whose whole result is 1 10 102 20 203 30 300):
#   SAME_UPPER: OpenVINO 1 10 102 20 203 30; onnxruntime 1 10 102 20 203 30
#   SAME_UPPER, output_shape 6: OpenVINO 10 102 20 203 30 300; onnxruntime 1 10 102 20 203 30
#   SAME_LOWER, output_shape 6: OpenVINO 10 102 20 203 30 300; onnxruntime 10 102 20 203 30 300
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

X = np.array([[[1, 2, 3]]], np.float32)
KERNEL = np.array([[[1, 10, 100]]], np.float32)
WHOLE = [1, 10, 102, 20, 203, 30, 300]


def results(**attributes):
    """What OpenVINO and onnxruntime make of X."""
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["x", "kernel"], ["y"], strides=[2], **attributes)],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 6])],
        [numpy_helper.from_array(KERNEL, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    theirs = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)([X])[0]
    (true,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})
    return [[round(value) for value in y.ravel().tolist()] for y in (theirs, true)]


upper, lower = WHOLE[:6], WHOLE[1:]
cases = {
    "SAME_UPPER": (upper, upper, {"auto_pad": "SAME_UPPER"}),
    "SAME_UPPER, output_shape 6": (lower, upper, {"auto_pad": "SAME_UPPER", "output_shape": [6]}),
    "SAME_LOWER, output_shape 6": (lower, lower, {"auto_pad": "SAME_LOWER", "output_shape": [6]}),
}
same = True
for name, (wrong, right, attributes) in cases.items():
    theirs, true = results(**attributes)
    print(f"{name}: OpenVINO {' '.join(map(str, theirs))}; onnxruntime {' '.join(map(str, true))}")
    same &= theirs == wrong and true == right
sys.exit(not same)
PY
