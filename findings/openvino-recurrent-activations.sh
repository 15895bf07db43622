#!/usr/bin/env bash
# OpenVINO gives both directions of a recurrent layer the activations of the first one.
#
# The attribute `activations` of ONNX's RNN, GRU and LSTM lists those of the forward direction, then those of the
# reverse one. For a bidirectional layer OpenVINO reads the first ones only and uses them both ways, in silence: the
# states of the reverse direction are those of another network. Layers of one direction have their activations, reverse
# ones too, so that the same two layers as two nodes are right. A search of OpenVINO's issues found no report of it.
#
# Seen with openvino 2026.4.1, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (the last states for the
# inputs 1 2 3, forward and reverse; all weights 0.5):
#   RNN, Tanh and Relu: OpenVINO 0.958 0.739, onnxruntime 0.958 1.38; as two nodes OpenVINO 0.958 1.38
#   RNN, Tanh and Tanh: OpenVINO 0.958 0.739, onnxruntime 0.958 0.739; as two nodes OpenVINO 0.958 0.739
#   GRU, Sigmoid Tanh and Sigmoid Relu: OpenVINO 0.424 0.397, onnxruntime 0.424 0.535; as two nodes OpenVINO 0.424 0.535
#   LSTM, Sigmoid Tanh Tanh and Sigmoid Relu Relu: OpenVINO 0.77 0.606, onnxruntime 0.77 2.36; as two nodes OpenVINO
#   0.77 2.36
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


def layer(operator, direction, activations):
    """A layer of one unit, whose weights are all 0.5."""
    directions = 2 if direction == "bidirectional" else 1
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[operator]
    weights = [numpy_helper.from_array(np.full((directions, gates, 1), 0.5, np.float32), name) for name in "wr"]
    attributes = {"hidden_size": 1, "direction": direction, "activations": activations}
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w", "r"], ["", "h"], **attributes)],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 1, 1])],
        [helper.make_tensor_value_info("h", TensorProto.FLOAT, [directions, 1, 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def by_openvino(data):
    core = openvino.Core()
    network = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return network({"x": X})[0].ravel().copy()


def by_onnxruntime(data):
    return onnxruntime.InferenceSession(data).run(None, {"x": X})[0].ravel()


def by_numpy(activation, inputs):
    state = 0.0
    for x in inputs:
        state = activation(0.5 * x + 0.5 * state)
    return state


def shown(states):
    return " ".join(f"{value:.3g}" for value in states)


def relu(x):
    return max(x, 0.0)


same = True
for operator, first, second in (
    ("RNN", ["Tanh"], ["Relu"]),
    ("RNN", ["Tanh"], ["Tanh"]),
    ("GRU", ["Sigmoid", "Tanh"], ["Sigmoid", "Relu"]),
    ("LSTM", ["Sigmoid", "Tanh", "Tanh"], ["Sigmoid", "Relu", "Relu"]),
):
    theirs, true = (run(layer(operator, "bidirectional", first + second)) for run in (by_openvino, by_onnxruntime))
    pair = [by_openvino(layer(operator, *way))[0] for way in (("forward", first), ("reverse", second))]
    print(
        f"{operator}, {' '.join(first)} and {' '.join(second)}: OpenVINO {shown(theirs)}, onnxruntime {shown(true)}; "
        f"as two nodes OpenVINO {shown(pair)}"
    )
    wrong = [pair[0], by_openvino(layer(operator, "reverse", first))[0]]
    same &= np.allclose(pair, true, rtol=1e-4) and np.allclose(theirs, wrong, rtol=1e-4)
    same &= np.allclose(theirs, true, rtol=1e-4) == (first == second)
    if operator == "RNN":
        functions = [np.tanh, np.tanh if first == second else relu]
        inputs = X.ravel().tolist()
        definition = [by_numpy(*way) for way in zip(functions, (inputs, inputs[::-1]), strict=True)]
        same &= np.allclose(true, definition, rtol=1e-4)
sys.exit(not same)
PY
