#!/usr/bin/env bash
# OpenVINO divides the last window of an AveragePool by pixels that exist in neither image nor padding.
#
# With ceil_mode the last window may reach beyond the padded image. With count_include_pad the padding counts in the
# divisor, and what lies beyond it does not: so it is in torch, in onnxruntime, and in ONNX's evaluator. OpenVINO
# divides by the size of the kernel as soon as there is padding on any side, so that the mean comes out too small. Without
# padding, without ceil_mode, or where padding does not count, it is right. OpenVINO changed the ceil mode of AveragePool
# lately (openvino, pull request 36714), for windows that start outside; of the divisor we found no report.
#
# Seen with openvino 2026.4.1, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (the numbers 1 to 7, kernel
# and stride 3, ceil_mode and, at the end, one padded zero):
#   count_include_pad 0: OpenVINO 2 5 7; onnxruntime 2 5 7
#   count_include_pad 1: OpenVINO 2 5 2.33; onnxruntime 2 5 3.5
#   count_include_pad 1, no padding: OpenVINO 2 5 7; onnxruntime 2 5 7
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
from onnx import TensorProto, helper

X = np.arange(1, 8, dtype=np.float32).reshape(1, 1, 7)


def pooled(**attributes):
    """What OpenVINO and onnxruntime make of X."""
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3], strides=[3], ceil_mode=1, **attributes)
    graph = helper.make_graph(
        [node],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    theirs = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)([X])[0]
    (true,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})
    return [" ".join(f"{value:.3g}" for value in y.ravel()) for y in (theirs, true)]


cases = {
    "count_include_pad 0": ("2 5 7", "2 5 7", {"count_include_pad": 0, "pads": [0, 1]}),
    "count_include_pad 1": ("2 5 2.33", "2 5 3.5", {"count_include_pad": 1, "pads": [0, 1]}),
    "count_include_pad 1, no padding": ("2 5 7", "2 5 7", {"count_include_pad": 1}),
}
same = True
for name, (wrong, right, attributes) in cases.items():
    theirs, true = pooled(**attributes)
    print(f"{name}: OpenVINO {theirs}; onnxruntime {true}")
    same &= theirs == wrong and true == right
sys.exit(not same)
PY
