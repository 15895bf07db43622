#!/usr/bin/env bash
# OpenCV samples a grid bilinearly where a file of opset 20 asks for "cubic", and MNN whatever the opset.
#
# Opset 20 renamed the modes of ONNX's GridSample: "bicubic" became "cubic", and "bilinear" "linear". OpenCV's dnn module
# knows the old name of the cubic one; for the new name it falls back to the bilinear values, in silence. MNN does so for
# both names, and mnnconvert reports success. Spatial transformers and warps by torch's grid_sample(mode="bicubic") export
# to this operator. A search of both projects' issues found no report of it; TensorRT and OpenVINO had similar faults.
#
# Seen with opencv-python-headless 5.0.0.93, MNN 3.6.1, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11
# (three places of the squares of 1 to 16 as 4 x 4 pixels; the definition, cubic with a = -0.75, gives 52.8 70.1 60.3, and
# bilinear 53.2 76.5 62.5):
#   bicubic, opset 16: onnxruntime 52.8 70.1 60.3; OpenCV 52.8 70.1 60.3; MNN 53.2 76.5 62.5
#   cubic, opset 20: onnxruntime 52.8 70.1 60.3; OpenCV 53.2 76.5 62.5; MNN 53.2 76.5 62.5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet opencv-python-headless==5.0.0.93 MNN==3.6.1 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - "$work" <<'PY'
import subprocess
import sys
from pathlib import Path

import cv2
import MNN
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

WORK = Path(sys.argv[1])
X = (np.arange(1, 17, dtype=np.float32) ** 2).reshape(1, 1, 4, 4)
PLACES = np.array([[1.3, 1.2], [1.5, 1.5], [1.7, 1.25]])  # column and row
GRID = (PLACES * 2 / 3 - 1).astype(np.float32).reshape(1, 1, 3, 2)  # -1 and 1 are the outer pixels


def cubic(t, a=-0.75):
    """Keys' kernel."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def linear(t):
    return np.maximum(0, 1 - np.abs(t))


def sampled(kernel):
    """The values at PLACES, by the definition: all lie inside, so that no padding counts."""
    pixels = np.arange(4)
    return [kernel(row - pixels) @ X[0, 0] @ kernel(column - pixels) for column, row in PLACES]


def network(mode, opset):
    graph = helper.make_graph(
        [helper.make_node("GridSample", ["x", "grid"], ["y"], mode=mode, align_corners=1)],
        "warp",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape),
            helper.make_tensor_value_info("grid", TensorProto.FLOAT, GRID.shape),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def by_onnxruntime(model):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X, "grid": GRID})[0]


def by_opencv(model):
    net = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    net.setInput(X, "x")
    net.setInput(GRID, "grid")
    return net.forward()


def by_mnn(model):
    onnx.save(model, WORK / "network.onnx")
    # What mnnconvert calls, without its report to a server.
    command = [sys.executable, "-c", "import sys, MNN, _tools; _tools.mnnconvert(sys.argv)"]
    command += ["-f", "ONNX", "--bizCode", "none"]
    command += ["--modelFile", str(WORK / "network.onnx"), "--MNNModel", str(WORK / "network.mnn")]
    subprocess.run(command, check=True, capture_output=True)
    net = MNN.nn.load_module_from_file(str(WORK / "network.mnn"), ["x", "grid"], ["y"])
    inputs = [MNN.expr.const(x, list(x.shape), MNN.expr.NCHW, MNN.expr.float) for x in (X, GRID)]
    return MNN.expr.convert(net.forward(inputs)[0], MNN.expr.NCHW).read().copy()


def shown(y):
    return " ".join(f"{value:.1f}" for value in np.ravel(y))


right, bilinear = sampled(cubic), sampled(linear)
print(f"definition: bilinear {shown(bilinear)}; cubic {shown(right)}")
same = True
for mode, opset, opencv_has in (("bicubic", 16, right), ("cubic", 20, bilinear)):
    model = network(mode, opset)
    true, opencv, mnn = by_onnxruntime(model), by_opencv(model), by_mnn(model)
    print(f"{mode}, opset {opset}: onnxruntime {shown(true)}; OpenCV {shown(opencv)}; MNN {shown(mnn)}")
    for found, expected in ((true, right), (opencv, opencv_has), (mnn, bilinear)):
        same &= np.allclose(np.ravel(found), expected, rtol=1e-3)
sys.exit(not same)
PY
