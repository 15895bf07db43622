#!/usr/bin/env bash
# OpenCV's reader of ONNX crops a ConvTranspose with auto_pad SAME at both ends, and adds zeros where output_shape is given.
#
# By the standard auto_pad SAME_UPPER or SAME_LOWER makes the result stride times as large as the input; what is too much is
# cropped, the odd pixel at the end or at the beginning. OpenCV's dnn module crops as for a Conv, a pixel at each end, so
# that the result is a pixel too small, and SAME_UPPER and SAME_LOWER do not differ. With output_shape it crops nothing and
# adds a row and a column of zeros, whatever size is asked for. It is silent about both: a mean over the pixels goes on
# with other numbers. Explicit pads are right. A search of OpenCV's issues found no report of it.
#
# Seen with opencv-python-headless 5.0.0.93, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11
# (1 2 3 with the kernel 1 10 100 and stride 2, whose whole result is 1 10 102 20 203 30 300; the first row):
#   SAME_UPPER: OpenCV 10 102 20 203 30; onnxruntime 1 10 102 20 203 30
#   SAME_LOWER: OpenCV 10 102 20 203 30; onnxruntime 10 102 20 203 30 300
#   output_shape 5: OpenCV 1 10 102 20 203 30 300 0; onnxruntime 10 102 20 203 30
#   output_shape 7: OpenCV 1 10 102 20 203 30 300 0; onnxruntime 1 10 102 20 203 30 300
#   pads 1 1: OpenCV 10 102 20 203 30; onnxruntime 10 102 20 203 30
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

X = np.array([1, 2, 3], np.float32).reshape(1, 1, 1, 3)
KERNEL = np.array([1, 10, 100], np.float32).reshape(1, 1, 1, 3)
WHOLE = np.zeros(7)
for place, value in enumerate(X.ravel()):
    WHOLE[2 * place : 2 * place + 3] += value * KERNEL.ravel()


def by_both(**attributes):
    """What OpenCV and onnxruntime make of X."""
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[1, 2], **attributes)],
        "decoder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, None])],
        [numpy_helper.from_array(KERNEL, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    net = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    net.setInput(X, "x")
    theirs = net.forward()
    (true,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})
    rows = 2 if "output_shape" in attributes else 1
    return theirs[0, 0, 0], true[0, 0, 0], theirs.shape[2] == rows and not theirs[0, 0, 1:].any()


def shown(y):
    return " ".join(f"{value:g}" for value in y)


cropped, with_zero = WHOLE[1:6], np.append(WHOLE, 0)
same = True
for name, attributes, wrong, right in (
    ("SAME_UPPER", {"auto_pad": "SAME_UPPER"}, cropped, WHOLE[:6]),
    ("SAME_LOWER", {"auto_pad": "SAME_LOWER"}, cropped, WHOLE[1:]),
    ("output_shape 5", {"output_shape": [1, 5]}, with_zero, WHOLE[1:6]),
    ("output_shape 7", {"output_shape": [1, 7]}, with_zero, WHOLE),
    ("pads 1 1", {"pads": [0, 1, 0, 1]}, cropped, cropped),
):
    theirs, true, rows = by_both(**attributes)
    print(f"{name}: OpenCV {shown(theirs)}; onnxruntime {shown(true)}")
    same &= np.array_equal(theirs, wrong) and np.array_equal(true, right) and rows
sys.exit(not same)
PY
