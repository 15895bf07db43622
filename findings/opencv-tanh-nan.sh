#!/usr/bin/env bash
# OpenCV's Tanh is NaN where its input is above 44.3.
#
# The hyperbolic tangent is 1 there to all digits of float32. 44.36 is where exp(2 x) overflows: OpenCV's dnn module
# seems to divide one infinity by another. Negative inputs are right, and so are the few numbers at the end that do not
# fill a whole vector of the processor. Nothing is said, and what follows in the network is NaN too. Networks whose
# inputs are pixels from 0 to 255, or whose activations are not normalised, get there. A search of OpenCV's issues found
# no report of it.
#
# Seen with opencv-python-headless 5.0.0.93, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (64 times
# the same number):
#   tanh(-100): OpenCV -1, onnxruntime -1
#   tanh(44): OpenCV 1, onnxruntime 1
#   tanh(45): OpenCV nan, onnxruntime 1
#   tanh(255): OpenCV nan, onnxruntime 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet opencv-python-headless==5.0.0.93 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

SHAPE = [1, 64]
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy"]
graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "network", ends[:1], ends[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
data = model.SerializeToString()
session = onnxruntime.InferenceSession(data)

same = True
for number in (-100, 44, 45, 255):
    x = np.full(SHAPE, number, np.float32)
    network = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
    network.setInput(x, "x")
    theirs, (true,) = network.forward(), session.run(None, {"x": x})
    print(f"tanh({number}): OpenCV {theirs[0, 0]:g}, onnxruntime {true[0, 0]:g}")
    same &= np.allclose(true, np.tanh(x))
    same &= np.isnan(theirs).all() if number > 44.3 else np.allclose(theirs, np.tanh(x))
sys.exit(not same)
PY
