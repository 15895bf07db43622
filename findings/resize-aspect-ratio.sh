#!/usr/bin/env bash
# OpenVINO and OpenCV stretch an image where a Resize asks to keep its proportions.
#
# ONNX's Resize has keep_aspect_ratio_policy since opset 18: "not_larger" and "not_smaller" scale all axes by one factor, the
# smallest or the largest of those that the sizes ask for. Both ignore it and resize each axis to its size, as "stretch",
# the default, does. Shape and pixels are other ones, and nothing is said: a global pool behind it hides the shape. A file
# whose preprocessing resizes the shorter side is of this kind. onnxruntime, ONNX's evaluator and tract have the policy. A
# search of both projects' issues found no report of it.
#
# Seen with openvino 2026.4.1, opencv-python-headless 5.0.0.93, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python
# 3.11 (2 x 4 pixels to 4 x 4 by "nearest"; the shape of the result):
#   stretch: definition 4 x 4; onnxruntime 4 x 4; OpenVINO 4 x 4; OpenCV 4 x 4
#   not_larger: definition 2 x 4; onnxruntime 2 x 4; OpenVINO 4 x 4; OpenCV 4 x 4
#   not_smaller: definition 4 x 8; onnxruntime 4 x 8; OpenVINO 4 x 4; OpenCV 4 x 4
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openvino==2026.4.1 opencv-python-headless==5.0.0.93 \
    onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper

X = np.arange(1, 9, dtype=np.float32).reshape(1, 1, 2, 4)
SIZES = np.array([4, 4])
FEEDS = {"x": X, "sizes": SIZES}


def network(policy):
    node = helper.make_node(
        "Resize", ["x", "", "", "sizes"], ["y"], mode="nearest", axes=[2, 3], keep_aspect_ratio_policy=policy
    )
    graph = helper.make_graph(
        [node],
        "resize",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape),
            helper.make_tensor_value_info("sizes", TensorProto.INT64, SIZES.shape),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, None, None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def by_onnxruntime(model):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, FEEDS)[0]


def by_openvino(model):
    core = openvino.Core()
    network = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return network(FEEDS)[0].copy()


def by_opencv(model):
    net = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    for name, value in FEEDS.items():
        net.setInput(value, name)
    return net.forward()


def definition(policy):
    """X with each pixel repeated by the factors, which are whole numbers here."""
    factors = SIZES // X.shape[2:]
    if policy != "stretch":
        factors[:] = min(factors) if policy == "not_larger" else max(factors)
    return X.repeat(factors[0], 2).repeat(factors[1], 3)


def shown(y):
    return f"{y.shape[2]} x {y.shape[3]}"


same = True
for policy in ("stretch", "not_larger", "not_smaller"):
    right, stretched, model = definition(policy), definition("stretch"), network(policy)
    found = {"onnxruntime": by_onnxruntime(model), "OpenVINO": by_openvino(model), "OpenCV": by_opencv(model)}
    print(f"{policy}: definition {shown(right)}; " + "; ".join(f"{name} {shown(y)}" for name, y in found.items()))
    same &= np.array_equal(found["onnxruntime"], right)
    same &= all(np.array_equal(found[name], stretched) for name in ("OpenVINO", "OpenCV"))
sys.exit(not same)
PY
