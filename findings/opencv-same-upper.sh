#!/usr/bin/env bash
# OpenCV's reader of ONNX pads a convolution with auto_pad SAME_UPPER at the beginning, as if it were SAME_LOWER.
#
# Where the padding is odd, SAME_UPPER puts the pixel more at the end and SAME_LOWER at the beginning. OpenCV's dnn module
# does the latter for both, so that every output looks at pixels one row and one column before. Networks that come from
# TensorFlow, whose "same" is SAME_UPPER, have that in each convolution of stride 2 on an even size. Explicit pads are
# right. The pools have a fault of their own.
#
# Seen with opencv-python-headless 5.0.0.93, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11
# (the numbers 0 to 15 as 4 x 4 pixels, a kernel of 3 x 3 ones, stride 2):
#   SAME_UPPER: OpenCV 10 24 51 90, onnxruntime 45 39 66 50
#   SAME_LOWER: OpenCV 10 24 51 90, onnxruntime 10 24 51 90
#   pads 0 0 1 1: OpenCV 45 39 66 50, onnxruntime 45 39 66 50
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

X = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)


def convolved(**padding):
    """What OpenCV and onnxruntime make of X."""
    kernel = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], **padding)],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
        [kernel],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    net = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    net.setInput(X)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return [[round(float(v)) for v in y.flat] for y in (net.forward(), session.run(None, {"x": X})[0])]


upper, lower = [45, 39, 66, 50], [10, 24, 51, 90]
found = {
    "SAME_UPPER": convolved(auto_pad="SAME_UPPER"),
    "SAME_LOWER": convolved(auto_pad="SAME_LOWER"),
    "pads 0 0 1 1": convolved(pads=[0, 0, 1, 1]),
}
for name, results in found.items():
    print("{}: OpenCV {}, onnxruntime {}".format(name, *(" ".join(map(str, y)) for y in results)))
sys.exit(list(found.values()) != [[lower, upper], [lower, lower], [upper, upper]])
PY
