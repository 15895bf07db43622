#!/usr/bin/env bash
# OpenCV's Resize takes the quotient of the sizes for the scale that a file gives.
#
# ONNX's Resize computes where a pixel comes from by the scale, x / scale or (x + 0.5) / scale - 0.5; only the output's
# size is rounded down. OpenCV's dnn module takes size / size for the scale, another number where the scale times the
# length is no whole one: pixels come from places that are off, by almost one pixel at the end. Shapes are right, and
# nothing is said. torch's export(dynamo=False) writes such files for Upsample(scale_factor=1.45). Scales that give whole
# sizes are right, and so is align_corners, which has no scale. A search of OpenCV's issues found no report of it.
#
# Seen with opencv-python-headless 5.0.0.93, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11
# (0 10 20 30 by mode nearest):
#   asymmetric, floor, scale 1.25: definition 0 0 10 20 30; OpenCV 0 0 10 20 30
#   asymmetric, floor, scale 1.45: definition 0 0 10 20 20; OpenCV 0 0 10 20 30
#   asymmetric, floor, scale 1.7: definition 0 0 10 10 20 20; OpenCV 0 0 10 20 20 30
#   half_pixel, round_prefer_ceil, scale 1.25: definition 0 10 20 20 30; OpenCV 0 10 20 20 30
#   half_pixel, round_prefer_ceil, scale 1.45: definition 0 10 10 20 30; OpenCV 0 10 20 20 30
#   half_pixel, round_prefer_ceil, scale 1.7: definition 0 0 10 20 20 30; OpenCV 0 10 10 20 30 30
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

X = 10 * np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)


ROUND = {"floor": np.floor, "round_prefer_ceil": lambda x: np.floor(x + 0.5)}


def picked(transformation, rounding, size, scale):
    """The pixels that the definition takes."""
    x = np.arange(size)
    at = x / scale if transformation == "asymmetric" else (x + 0.5) / scale - 0.5
    return 10 * np.clip(ROUND[rounding](at), 0, 3)


def resized(transformation, rounding, size, scale):
    """What OpenCV and onnxruntime make of the row."""
    attributes = {"coordinate_transformation_mode": transformation, "nearest_mode": rounding}
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest", **attributes)
    shapes = (("x", X.shape), ("y", (1, 1, 1, size)))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes]
    scales = numpy_helper.from_array(np.array([1, 1, 1, scale], np.float32), "scales")
    graph = helper.make_graph([node], "resize", ends[:1], ends[1:], [scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    network = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
    network.setInput(X, "x")
    return network.forward().ravel(), onnxruntime.InferenceSession(data).run(None, {"x": X})[0].ravel()


same = True
for transformation, rounding in (("asymmetric", "floor"), ("half_pixel", "round_prefer_ceil")):
    for scale in (1.25, 1.45, 1.7):
        size = int(4 * scale)
        theirs, true = resized(transformation, rounding, size, scale)
        definition, quotient = (picked(transformation, rounding, size, each) for each in (scale, size / 4))
        shown = (" ".join(f"{value:g}" for value in y) for y in (definition, theirs))
        print(f"{transformation}, {rounding}, scale {scale}: " + "definition {}; OpenCV {}".format(*shown))
        same &= np.array_equal(true, definition) and np.array_equal(theirs, quotient)
        same &= np.array_equal(theirs, definition) == (scale == 1.25)
sys.exit(not same)
PY
