#!/usr/bin/env bash
# OpenCV's MatMul walks through a stack of constant matrices by the wrong steps.
#
# ONNX's MatMul multiplies stacks of matrices, whose leading axes broadcast as NumPy's. Where the second factor is a
# constant, has several matrices, and its leading axes are not exactly those of the first factor, OpenCV's dnn module takes
# numbers of other matrices, from the second matrix on, or repeats the first one; the shape is right and nothing is said.
# Weights of one head each, with shape (heads, in, out), are of this kind: it shows with an input of two samples
# and not with one. The same matrices as a second input are right. A search of OpenCV's issues found no report of it.
#
# Seen with opencv-python-headless 5.0.0.93, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (1, 2, 3
# and so on in each factor):
#   (1, 3, 1, 2) times weights (3, 2, 1): OpenCV 5 25 61; onnxruntime 5 25 61
#   (2, 3, 1, 2) times weights (3, 2, 1): OpenCV 5 18 39 23 48 81; onnxruntime 5 25 61 23 67 127
#   (2, 3, 1, 2) times an input (3, 2, 1): OpenCV 5 25 61 23 67 127; onnxruntime 5 25 61 23 67 127
#   (1, 3, 1, 2) times weights (2, 1, 2, 1): OpenCV 5 11 17 5 11 17; onnxruntime 5 11 17 11 25 39
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


def counted(shape):
    return np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)


def products(left, right, constant):
    """What OpenCV and onnxruntime make of the two factors, and NumPy's result."""
    inputs = {"a": left} if constant else {"a": left, "b": right}
    true = np.matmul(left, right)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["y"])],
        "network",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, true.shape)],
        [numpy_helper.from_array(right, "b")] if constant else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    network = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    for name, value in inputs.items():
        network.setInput(value, name)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return network.forward(), session.run(None, inputs)[0], true


def shown(y):
    return " ".join(f"{value:g}" for value in y.ravel())


wrong = []
for left, right, constant in (
    ((1, 3, 1, 2), (3, 2, 1), True),
    ((2, 3, 1, 2), (3, 2, 1), True),
    ((2, 3, 1, 2), (3, 2, 1), False),
    ((1, 3, 1, 2), (2, 1, 2, 1), True),
):
    theirs, runtime, true = products(counted(left), counted(right), constant)
    kind = "weights" if constant else "an input"
    print(f"{left} times {kind} {right}: OpenCV {shown(theirs)}; onnxruntime {shown(runtime)}")
    assert theirs.shape == true.shape and np.array_equal(runtime, true)
    wrong.append(not np.allclose(theirs, true))
sys.exit(wrong != [False, True, False, True])
PY
