#!/usr/bin/env bash
# OpenVINO cuts the bias of an LRN to a whole number: 1.5 counts as 1.
#
# ONNX defines y = x / (bias + alpha / size * the sum of squares in the window) ** beta, with a bias that may be any
# number. OpenVINO's result for 1.5 is that for 1, and for 2.9 that for 2; only whole numbers are right. Networks of the
# AlexNet family put an LRN behind each convolution, often with bias 1 or 2, so that the fault is not noticed there.
#
# Seen with openvino 2026.4.1, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11
# (channels 1, 2, 3, size 3, alpha 3, beta 1; the first channel):
#   bias 1: OpenVINO 0.167, onnxruntime 0.167
#   bias 1.5: OpenVINO 0.167, onnxruntime 0.154
#   bias 2: OpenVINO 0.143, onnxruntime 0.143
#   bias 2.9: OpenVINO 0.143, onnxruntime 0.127
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

X = np.array([1, 2, 3], np.float32).reshape(1, 3, 1, 1)


def normalised(bias):
    """The first channel by OpenVINO, by onnxruntime and by the definition."""
    node = helper.make_node("LRN", ["x"], ["y"], size=3, alpha=3.0, beta=1.0, bias=bias)
    graph = helper.make_graph(
        [node],
        "lrn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    core = openvino.Core()
    read = core.read_model(model.SerializeToString())
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = compiled([X])[0], session.run(None, {"x": X})[0]
    return [float(y[0, 0, 0, 0]) for y in found] + [1 / (bias + 3.0 / 3 * (1 + 4))]


right = []
for bias in (1.0, 1.5, 2.0, 2.9):
    vino, runtime, expected = normalised(bias)
    print(f"bias {bias:g}: OpenVINO {vino:.3f}, onnxruntime {runtime:.3f}")
    cut = normalised(float(int(bias)))[2]
    right.append((abs(runtime - expected) < 1e-4, abs(vino - expected) < 1e-4, abs(vino - cut) < 1e-4))
whole, part = (True, True, True), (True, False, True)
sys.exit(right != [whole, part, whole, part])
PY
