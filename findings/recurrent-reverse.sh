#!/usr/bin/env bash
# tract, OpenCV and MNN run a recurrent layer of direction "reverse" forwards.
#
# ONNX's RNN, GRU and LSTM have a direction: "reverse" reads the sequence from its end, so that the last state, Y_h, is the
# one at the first place. tract (all three layers), OpenCV and MNN (GRU) take the attribute for "forward", in silence; the
# shapes are the same, and the values are those of another network. OpenCV's LSTM has the right states, but its Y_h is the
# one at the last place, which has seen a single input. Layers of both directions are right in all of them: the fault shows
# where an encoder reads backwards only. A search of the projects' issues found no report of it.
#
# Seen with tract 0.23.9, opencv-python-headless 5.0.0.93, MNN 3.6.1, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64,
# Python 3.11 (the states for 1 2 3, then Y_h; by the definition: those for 3 2 1 of the forward layer, turned round):
#   RNN, reverse: definition 0.26 0.333 0.291, then 0.26; onnxruntime alike; tract 0.0997 0.245 0.399, then 0.399
#   GRU, forward: definition 0.0473 0.12 0.203, then 0.203; onnxruntime, tract, OpenCV and MNN alike
#   GRU, reverse: definition 0.159 0.17 0.124, then 0.159; onnxruntime alike
#   GRU, reverse: tract, OpenCV and MNN 0.0473 0.12 0.203, then 0.203
#   LSTM, reverse: definition 0.113 0.127 0.0952, then 0.113; onnxruntime alike
#   LSTM, reverse: tract 0.0274 0.0799 0.157, then 0.157; OpenCV 0.113 0.127 0.0952, then 0.0952
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tract==0.23.9 opencv-python-headless==5.0.0.93 MNN==3.6.1 \
    onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - "$work" <<'PY'
import subprocess
import sys
from pathlib import Path

import cv2
import MNN
import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper, numpy_helper

WORK = Path(sys.argv[1])
FILE = WORK / "network.onnx"
X = np.array([1, 2, 3], np.float32).reshape(3, 1, 1)


def layer(operator, gates, direction):
    """A layer of one unit, whose weights are 0.1 and 0.5."""
    weights = [
        numpy_helper.from_array(np.full((1, gates, 1), w, np.float32), name) for name, w in (("w", 0.1), ("r", 0.5))
    ]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w", "r"], ["y", "h"], hidden_size=1, direction=direction)],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 1, 1])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 1, 1, 1]),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, 1, 1]),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def by_onnxruntime(model, x=X):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})


def by_tract(model):
    onnx.save(model, FILE)
    return [y.to_numpy() for y in tract.onnx().load(str(FILE)).into_model().into_runnable().run([X])]


def by_opencv(model):
    net = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    net.setInput(X, "x")
    return net.forward(["y", "h"])


def by_mnn(model):
    onnx.save(model, FILE)
    # What mnnconvert calls, without its report to a server.
    command = [sys.executable, "-c", "import sys, MNN, _tools; _tools.mnnconvert(sys.argv)"]
    command += ["-f", "ONNX", "--bizCode", "none"]
    command += ["--modelFile", str(FILE), "--MNNModel", str(WORK / "network.mnn")]
    subprocess.run(command, check=True, capture_output=True)
    net = MNN.nn.load_module_from_file(str(WORK / "network.mnn"), ["x"], ["y", "h"])
    x = MNN.expr.const(X, [3, 1, 1], MNN.expr.NCHW, MNN.expr.float)
    return [MNN.expr.convert(y, MNN.expr.NCHW).read().copy() for y in net.forward([x])]


def shown(pair):
    states, last = (" ".join(f"{value:.3g}" for value in np.ravel(y)) for y in pair)
    return f"{states}, then {last}"


def alike(pair, other):
    return all(np.allclose(np.ravel(a), np.ravel(b), rtol=1e-3) for a, b in zip(pair, other, strict=True))


def forward(operator, gates, x):
    return by_onnxruntime(layer(operator, gates, "forward"), x)[0]


same = True
for operator, gates, runners in (
    ("RNN", 1, {"tract": by_tract}),
    ("GRU", 3, {"tract": by_tract, "OpenCV": by_opencv, "MNN": by_mnn}),
    ("LSTM", 4, {"tract": by_tract, "OpenCV": by_opencv}),
):
    ahead = forward(operator, gates, X)
    back = forward(operator, gates, X[::-1])[::-1]
    wrong = {name: (ahead, ahead[-1]) for name in runners}
    if operator == "LSTM":
        wrong["OpenCV"] = (back, back[-1])
    for direction, definition in (("forward", (ahead, ahead[-1])), ("reverse", (back, back[0]))):
        model = layer(operator, gates, direction)
        found = {name: run(model) for name, run in runners.items()}
        runtime = by_onnxruntime(model)
        print(f"{operator}, {direction}: definition {shown(definition)}; onnxruntime {shown(runtime)}")
        print(f"{operator}, {direction}: " + "; ".join(f"{name} {shown(pair)}" for name, pair in found.items()))
        expected = wrong if direction == "reverse" else dict.fromkeys(runners, definition)
        same &= alike(runtime, definition) and all(alike(found[name], expected[name]) for name in runners)
sys.exit(not same)
PY
