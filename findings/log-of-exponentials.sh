#!/usr/bin/env bash
# tract and OpenCV lose the logarithms of exponentials: Softplus, LogSoftmax and ReduceLogSumExp.
#
# All three have moderate results for moderate inputs: log(1 + exp(100)) is 100. Both compute what stands inside the
# logarithm first. Above 88 it overflows, and Softplus and ReduceLogSumExp are infinite. In LogSoftmax it underflows: a
# class whose logit is 90 below the largest gets minus infinity in OpenCV and -87.2 in tract, and with 104 minus
# infinity in both. Nothing is said. Losses and margins of sure networks, and a smooth maximum of logits, are lost.
# onnxruntime and OpenVINO are right. ONNX's evaluator has such a fault in LogSoftmax (onnx, pull request 8423); of
# tract and OpenCV a search found no report.
#
# Seen with tract 0.23.9, opencv-python-headless 5.0.0.93, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python
# 3.11 (LogSoftmax: of the second of 0 and the number):
#   Softplus of 80: tract 80, OpenCV 80, onnxruntime 80, definition 80
#   Softplus of 100: tract inf, OpenCV inf, onnxruntime 100, definition 100
#   ReduceLogSumExp of 80 and 80: tract 80.7, OpenCV 80.7, onnxruntime 80.7, definition 80.7
#   ReduceLogSumExp of 100 and 100: tract inf, OpenCV inf, onnxruntime 101, definition 101
#   LogSoftmax of -80: tract -80, OpenCV -80, onnxruntime -80, definition -80
#   LogSoftmax of -90: tract -87.2, OpenCV -inf, onnxruntime -90, definition -90
#   LogSoftmax of -110: tract -inf, OpenCV -inf, onnxruntime -110, definition -110
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet \
    tract==0.23.9 opencv-python-headless==5.0.0.93 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - "$work" <<'PY'
import math
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper

FILE = Path(sys.argv[1], "network.onnx")


def applied(operator, row):
    """What tract, OpenCV and onnxruntime make of the row; the last number of each result."""
    x = np.array([row], np.float32)
    size = 1 if operator == "ReduceLogSumExp" else 2
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"])],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, size])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, FILE)
    network = cv2.dnn.readNetFromONNX(str(FILE))
    network.setInput(x, "x")
    results = {
        "tract": tract.onnx().load(str(FILE)).into_model().into_runnable().run([x])[0].to_numpy(),
        "OpenCV": network.forward(),
        "onnxruntime": onnxruntime.InferenceSession(FILE).run(None, {"x": x})[0],
    }
    return {name: float(y.ravel()[-1]) for name, y in results.items()}


def log_sum_exp(row):
    return max(row) + math.log(sum(math.exp(number - max(row)) for number in row))


both = {"tract": math.inf, "OpenCV": math.inf}
same = True
for operator, text, row, definition, wrong in (
    ("Softplus", "80", [80, 80], log_sum_exp([0, 80]), {}),
    ("Softplus", "100", [100, 100], log_sum_exp([0, 100]), both),
    ("ReduceLogSumExp", "80 and 80", [80, 80], log_sum_exp([80, 80]), {}),
    ("ReduceLogSumExp", "100 and 100", [100, 100], log_sum_exp([100, 100]), both),
    ("LogSoftmax", "-80", [0, -80], -80 - log_sum_exp([0, -80]), {}),
    ("LogSoftmax", "-90", [0, -90], -90 - log_sum_exp([0, -90]), {"tract": -87.2, "OpenCV": -math.inf}),
    ("LogSoftmax", "-110", [0, -110], -110 - log_sum_exp([0, -110]), {"tract": -math.inf, "OpenCV": -math.inf}),
):
    results = applied(operator, row)
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in (results | {"definition": definition}).items())
    print(f"{operator} of {text}: {numbers}")
    same &= all(np.isclose(value, wrong.get(name, definition), rtol=0.005) for name, value in results.items())
sys.exit(not same)
PY
