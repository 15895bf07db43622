#!/usr/bin/env bash
# OpenCV's pools pad by half of the kernel at the beginning, whatever auto_pad and the size of the image ask for.
#
# ONNX's auto_pad pads just so much that there are ceil(size / stride) windows, and an odd pixel more goes to the end
# with SAME_UPPER and to the beginning with SAME_LOWER. In MaxPool and AveragePool OpenCV's dnn module puts (kernel - 1)
# / 2, rounded down, at the beginning. Where this happens to be half of the padding, and so for SAME_UPPER with stride
# 1, the result is right; elsewhere each output belongs to pixels further up and left, or down and right. The shapes are
# right, and nothing is said. Explicit pads are right. (Conv has a fault of its own there, ConvTranspose another.) A
# search of OpenCV's issues found no report of it.
#
# Seen with opencv-python-headless 5.0.0.93, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (MaxPool of
# the numbers from 0 on as square images; the first row):
#   SAME_UPPER, 4 x 4, kernel 3, stride 2: OpenCV 5 7, definition 10 11
#   SAME_UPPER, 5 x 5, kernel 3, stride 3: OpenCV 6 9, definition 12 14
#   SAME_UPPER, 5 x 5, kernel 3, stride 2: OpenCV 6 8 9, definition 6 8 9
#   SAME_LOWER, 4 x 4, kernel 3, stride 2: OpenCV 5 7, definition 5 7
#   SAME_LOWER, 5 x 5, kernel 2, stride 2: OpenCV 6 8 9, definition 0 2 4
#   SAME_LOWER, 4 x 4, kernel 2, stride 1: OpenCV 5 6 7 7, definition 0 1 2 3
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet opencv-python-headless==5.0.0.93 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import math
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper


def pooled(operator, x, auto_pad, kernel, stride):
    """What OpenCV and onnxruntime make of the image."""
    size = math.ceil(len(x) / stride)
    attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "auto_pad": auto_pad}
    sides = (("x", len(x)), ("y", size))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, n, n]) for name, n in sides]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], **attributes)], "pool", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    network = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
    network.setInput(x[None, None], "x")
    (true,) = onnxruntime.InferenceSession(data).run(None, {"x": x[None, None]})
    return network.forward()[0, 0], true[0, 0]


def by_windows(x, begin, kernel, stride, reduce):
    """The pool whose first window begins at -begin."""
    parts = [slice(max(0, at), at + kernel) for at in range(-begin, len(x) - begin, stride)]
    parts = parts[: math.ceil(len(x) / stride)]
    return np.array([[reduce(x[rows, columns]) for columns in parts] for rows in parts])


def begin(size, auto_pad, kernel, stride):
    total = max(0, (math.ceil(size / stride) - 1) * stride + kernel - size)
    return total // 2 if auto_pad == "SAME_UPPER" else total - total // 2


same = True
for auto_pad, size, kernel, stride in (
    ("SAME_UPPER", 4, 3, 2),
    ("SAME_UPPER", 5, 3, 3),
    ("SAME_UPPER", 5, 3, 2),
    ("SAME_LOWER", 4, 3, 2),
    ("SAME_LOWER", 5, 2, 2),
    ("SAME_LOWER", 4, 2, 1),
):
    x = np.arange(size * size, dtype=np.float32).reshape(size, size)
    for operator, reduce in (("MaxPool", np.max), ("AveragePool", np.mean)):
        theirs, true = pooled(operator, x, auto_pad, kernel, stride)
        definition = by_windows(x, begin(size, auto_pad, kernel, stride), kernel, stride, reduce)
        same &= np.allclose(true, definition)
        same &= np.allclose(theirs, by_windows(x, (kernel - 1) // 2, kernel, stride, reduce))
        if operator == "MaxPool":
            first, wanted = (" ".join(f"{value:g}" for value in y[0]) for y in (theirs, definition))
            print(f"{auto_pad}, {size} x {size}, kernel {kernel}, stride {stride}: OpenCV {first}, definition {wanted}")
sys.exit(not same)
PY
