#!/usr/bin/env bash
# OpenCV takes the Softmax of ONNX before opset 13 for the newer one, which normalises along a single axis.
#
# Up to opset 12 Softmax and LogSoftmax normalise over all axes from `axis` on, which is 1 unless it is given; since 13
# over that axis alone. OpenCV's dnn module does the latter for every opset. Of two axes, as logits have, both rules
# agree; of more, say a softmax over the pixels of a channel or over a map of scores, the numbers no longer add up to one
# where they should. Nothing is said. A search of OpenCV's issues found no report of it.
#
# Seen with opencv-python-headless 5.0.0.93, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (of the
# logarithms of 1, 2, 3, 4 in the shape 1 x 2 x 2):
#   opset 11: OpenCV 0.25 0.333 0.75 0.667; onnxruntime 0.1 0.2 0.3 0.4
#   opset 11, axis 2: OpenCV 0.333 0.667 0.429 0.571; onnxruntime 0.333 0.667 0.429 0.571
#   opset 13, axis 1: OpenCV 0.25 0.333 0.75 0.667; onnxruntime 0.25 0.333 0.75 0.667
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

X = np.log(np.array([[[1, 2], [3, 4]]], np.float32))


def normalised(opset, **attributes):
    """What OpenCV and onnxruntime make of X."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, X.shape) for name in "xy"]
    node = helper.make_node("Softmax", ["x"], ["y"], **attributes)
    graph = helper.make_graph([node], "network", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.checker.check_model(model, full_check=True)
    network = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    network.setInput(X, "x")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return [" ".join(f"{value:.3g}" for value in y.ravel()) for y in (network.forward(), session.run(None, {"x": X})[0])]


single, last = "0.25 0.333 0.75 0.667", "0.333 0.667 0.429 0.571"
cases = {
    "opset 11": (single, "0.1 0.2 0.3 0.4", 11, {}),
    "opset 11, axis 2": (last, last, 11, {"axis": 2}),
    "opset 13, axis 1": (single, single, 13, {"axis": 1}),
}
same = True
for name, (wrong, right, opset, attributes) in cases.items():
    theirs, true = normalised(opset, **attributes)
    print(f"{name}: OpenCV {theirs}; onnxruntime {true}")
    same &= theirs == wrong and true == right
sys.exit(not same)
PY
