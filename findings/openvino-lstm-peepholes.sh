#!/usr/bin/env bash
# OpenVINO leaves out the peepholes of an LSTM, and the coupling of its gates.
#
# ONNX's LSTM has an optional input P, by which the gates see the cell, and the attribute input_forget, which makes the
# forget gate 1 minus the input gate. OpenVINO reads a file with either as a plain LSTM. It is silent about both. The
# shapes are right, and the states are those of another network. A search of OpenVINO's issues found no report of it.
#
# Seen with openvino 2026.4.1, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (the last state for the
# inputs 1 2 3; all weights 0.5):
#   plain: OpenVINO 0.77, onnxruntime 0.77, definition 0.77
#   peepholes: OpenVINO 0.77, onnxruntime 0.858, definition 0.858
#   input_forget: OpenVINO 0.77, onnxruntime 0.606, definition 0.606
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

X = np.array([1, 2, 3], np.float32).reshape(3, 1, 1)


def last_states(peepholes, coupled):
    """The last state by OpenVINO and by onnxruntime of a layer of one unit, whose weights are all 0.5."""
    sizes = {"w": (1, 4, 1), "r": (1, 4, 1)} | ({"p": (1, 3)} if peepholes else {})
    inputs = ["x", "w", "r"] + (["", "", "", "", "p"] if peepholes else [])
    attributes = {"input_forget": 1} if coupled else {}
    graph = helper.make_graph(
        [helper.make_node("LSTM", inputs, ["", "h"], hidden_size=1, **attributes)],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, 1, 1])],
        [numpy_helper.from_array(np.full(size, 0.5, np.float32), name) for name, size in sizes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    core = openvino.Core()
    network = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [float(y[0].item()) for y in (network({"x": X}), onnxruntime.InferenceSession(data).run(None, {"x": X}))]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_numpy(peepholes, coupled):
    """The last state by the formulas of the standard."""
    state = cell = 0.0
    weight = 0.5 if peepholes else 0.0
    for x in X.ravel():
        inner = 0.5 * x + 0.5 * state
        gate = sigmoid(inner + weight * cell)
        cell = (1 - gate if coupled else gate) * cell + gate * np.tanh(inner)
        state = sigmoid(inner + weight * cell) * np.tanh(cell)
    return float(state)


same = True
for text, case in (("plain", (False, False)), ("peepholes", (True, False)), ("input_forget", (False, True))):
    (theirs, true), definition = last_states(*case), by_numpy(*case)
    print(f"{text}: OpenVINO {theirs:.3g}, onnxruntime {true:.3g}, definition {definition:.3g}")
    same &= np.isclose(true, definition, rtol=1e-4) and np.isclose(theirs, by_numpy(False, False), rtol=1e-4)
sys.exit(not same)
PY
