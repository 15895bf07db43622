#!/usr/bin/env bash
# OpenCV's reader of ONNX takes the slopes of a PRelu for slopes of channels, whatever their shape.
#
# ONNX broadcasts the slopes to the input as NumPy does, so that slopes of shape (1, 1, W) belong to columns. OpenCV's dnn
# module reads as many as there are channels from the front and gives each channel one, in silence. Slopes of shape
# (C, 1, 1), as torch exports them, are right.
#
# Seen with opencv-python-headless 5.0.0.93, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11
# (two channels of 1 x 3 pixels of -1; slopes 1, 2, 3 or 1, 2):
#   slopes of columns: OpenCV -1 -1 -1 -2 -2 -2, onnxruntime -1 -2 -3 -1 -2 -3
#   slopes of channels: OpenCV -1 -1 -1 -2 -2 -2, onnxruntime -1 -1 -1 -2 -2 -2
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
from onnx import TensorProto, helper, numpy_helper

X = -np.ones((1, 2, 1, 3), np.float32)


def applied(slopes):
    """What OpenCV and onnxruntime make of X."""
    graph = helper.make_graph(
        [helper.make_node("PRelu", ["x", "slopes"], ["y"])],
        "prelu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, X.shape)],
        [numpy_helper.from_array(slopes.astype(np.float32), "slopes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    net = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    net.setInput(X)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return net.forward(), session.run(None, {"x": X})[0]


columns, channels = np.arange(1, 4).reshape(1, 1, 3), np.arange(1, 3).reshape(2, 1, 1)
right = []
for name, slopes in (("columns", columns), ("channels", channels)):
    results = applied(slopes)
    shown = (" ".join(f"{value:g}" for value in y.flat) for y in results)
    print("slopes of {}: OpenCV {}, onnxruntime {}".format(name, *shown))
    right.append(tuple(np.array_equal(y, slopes * X) for y in results))
sys.exit(right != [(False, True), (True, True)])
PY
