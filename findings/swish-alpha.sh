#!/usr/bin/env bash
# tract and OpenCV ignore the alpha of a Swish.
#
# ONNX's Swish, new in opset 24, is x * sigmoid(alpha * x). Both compute x * sigmoid(x) for any alpha, in silence: SiLU
# is right, and the quick GELU of CLIP, whose alpha is 1.702, becomes SiLU. onnxruntime, ONNX's evaluator and
# OpenVINO have the factor. A search of both projects' issues found no report of it.
#
# Seen with tract 0.23.9, opencv-python-headless 5.0.0.93, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11
# (at -2, -1, 1 and 2):
#   alpha 1: tract -0.238 -0.269 0.731 1.76; OpenCV -0.238 -0.269 0.731 1.76; onnxruntime -0.238 -0.269 0.731 1.76
#   alpha 2: tract -0.238 -0.269 0.731 1.76; OpenCV -0.238 -0.269 0.731 1.76; onnxruntime -0.036 -0.119 0.881 1.96
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet \
    tract==0.23.9 opencv-python-headless==5.0.0.93 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - "$work" <<'PY'
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper

FILE = Path(sys.argv[1], "network.onnx")
X = np.array([[-2, -1, 1, 2]], np.float32)


def applied(alpha):
    """What tract, OpenCV and onnxruntime make of X."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, X.shape) for name in "xy"]
    node = helper.make_node("Swish", ["x"], ["y"], alpha=alpha)
    graph = helper.make_graph([node], "network", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, FILE)
    network = cv2.dnn.readNetFromONNX(str(FILE))
    network.setInput(X, "x")
    return {
        "tract": tract.onnx().load(str(FILE)).into_model().into_runnable().run([X])[0].to_numpy(),
        "OpenCV": network.forward(),
        "onnxruntime": onnxruntime.InferenceSession(FILE).run(None, {"x": X})[0],
    }


def swish(alpha):
    return X / (1 + np.exp(-alpha * X))


same = True
for alpha in (1.0, 2.0):
    results = applied(alpha)
    numbers = (f"{name} " + " ".join(f"{value:.3g}" for value in y.ravel()) for name, y in results.items())
    print(f"alpha {alpha:g}: {'; '.join(numbers)}")
    expected = {"tract": swish(1), "OpenCV": swish(1), "onnxruntime": swish(alpha)}
    same &= all(np.allclose(y, expected[name], atol=1e-4) for name, y in results.items())
sys.exit(not same)
PY
