#!/usr/bin/env bash
# MNN pads SAME_LOWER at the end, as if it were SAME_UPPER.
#
# Where the padding is odd, SAME_UPPER has the pixel more at the end and SAME_LOWER at the beginning. MNN reads both as
# "same" and pads at the end, in Conv, MaxPool, AveragePool and ConvTranspose, so that each output belongs to the pixels
# one row and one column further on. mnnconvert reports success, and the shapes agree. Explicit pads are right. (OpenCV has
# the opposite fault in Conv.) A search of MNN's issues found no report of it.
#
# Seen with MNN 3.6.1, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (windows of 3 x 3 over the
# numbers 0 to 15 as 4 x 4 pixels, stride 2; a kernel of ones):
#   Conv, SAME_UPPER: MNN 45 39 66 50, onnxruntime 45 39 66 50
#   Conv, SAME_LOWER: MNN 45 39 66 50, onnxruntime 10 24 51 90
#   Conv, pads 1 1 0 0: MNN 10 24 51 90, onnxruntime 10 24 51 90
#   MaxPool, SAME_UPPER: MNN 10 11 14 15, onnxruntime 10 11 14 15
#   MaxPool, SAME_LOWER: MNN 10 11 14 15, onnxruntime 5 7 13 15
#   MaxPool, pads 1 1 0 0: MNN 5 7 13 15, onnxruntime 5 7 13 15
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet MNN==3.6.1 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - "$work" <<'PY'
import subprocess
import sys
from pathlib import Path

import MNN
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

WORK = Path(sys.argv[1])
X = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)


def by_both(operator, padding):
    """What MNN and onnxruntime make of X."""
    inputs, weights = ["x"], []
    if operator == "Conv":
        inputs, weights = ["x", "w"], [numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")]
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"], kernel_shape=[3, 3], strides=[2, 2], **padding)],
        "windows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, WORK / "network.onnx")
    # What mnnconvert calls, without its report to a server.
    command = [sys.executable, "-c", "import sys, MNN, _tools; _tools.mnnconvert(sys.argv)"]
    command += ["-f", "ONNX", "--bizCode", "none"]
    command += ["--modelFile", str(WORK / "network.onnx"), "--MNNModel", str(WORK / "network.mnn")]
    subprocess.run(command, check=True, capture_output=True)
    net = MNN.nn.load_module_from_file(str(WORK / "network.mnn"), ["x"], ["y"])
    (theirs,) = net.forward([MNN.expr.const(X, [1, 1, 4, 4], MNN.expr.NCHW, MNN.expr.float)])
    (true,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})
    return MNN.expr.convert(theirs, MNN.expr.NCHW).read().ravel().copy(), true.ravel()


def definition(operator, before):
    """The sum or the maximum of the windows of X with `before` pixels of padding at the beginning, the rest at the end."""
    outside = -np.inf if operator == "MaxPool" else 0
    padded = np.pad(X[0, 0], (before, 1 - before), constant_values=outside)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))[::2, ::2]
    return (windows.max(axis=(2, 3)) if operator == "MaxPool" else windows.sum(axis=(2, 3))).ravel()


def shown(y):
    return " ".join(f"{value:g}" for value in y)


same = True
for operator in ("Conv", "MaxPool"):
    for name, padding, before, theirs_before in (
        ("SAME_UPPER", {"auto_pad": "SAME_UPPER"}, 0, 0),
        ("SAME_LOWER", {"auto_pad": "SAME_LOWER"}, 1, 0),
        ("pads 1 1 0 0", {"pads": [1, 1, 0, 0]}, 1, 1),
    ):
        theirs, true = by_both(operator, padding)
        print(f"{operator}, {name}: MNN {shown(theirs)}, onnxruntime {shown(true)}")
        same &= np.array_equal(true, definition(operator, before))
        same &= np.array_equal(theirs, definition(operator, theirs_before))
sys.exit(not same)
PY
