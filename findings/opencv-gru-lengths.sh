#!/usr/bin/env bash
# OpenCV's GRU reads the padding of short sequences, whatever sequence_lens says.
#
# ONNX's GRU has an input with the length of each sequence of a batch: states behind the end are 0, and Y_h is the state
# at the end. OpenCV's dnn module ignores it and reads on, so that Y_h, which classifiers take, depends on the padding and
# on the longest sequence of the batch. Shapes are right, and nothing is said. Networks that read texts or signals of
# different lengths in batches have this input. onnxruntime and OpenVINO are right. A search of OpenCV's issues found no
# report of it.
#
# Seen with opencv-python-headless 5.0.0.93, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11
# (the sequence 1 2, padded by 3 and by -3, beside one of three; its states, then Y_h):
#   padding 3, length 3: definition 0.174 0.329 0.424, then 0.424; OpenCV 0.174 0.329 0.424, then 0.424
#   padding 3, length 2: definition 0.174 0.329 0, then 0.329; OpenCV 0.174 0.329 0.424, then 0.424
#   padding -3, length 3: definition 0.174 0.329 -0.643, then -0.643; OpenCV 0.174 0.329 -0.643, then -0.643
#   padding -3, length 2: definition 0.174 0.329 0, then 0.329; OpenCV 0.174 0.329 -0.643, then -0.643
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


def states(x, lengths):
    """The states of a GRU with all weights 0.5, and no bias, by the definition."""
    y = np.zeros(x.shape)
    h = np.zeros(x.shape[1])
    for t, now in enumerate(x):
        z = r = 1 / (1 + np.exp(-0.5 * (now + h)))
        new = (1 - z) * np.tanh(0.5 * (now + r * h)) + z * h
        h = np.where(t < lengths, new, h)
        y[t] = np.where(t < lengths, new, 0)
    return y, h


def by_runtimes(x, lengths):
    """The same by onnxruntime and by OpenCV."""
    batch = x.shape[1]
    constants = {"w": np.full((1, 3, 1), 0.5, np.float32), "r": np.full((1, 3, 1), 0.5, np.float32)}
    constants["lengths"] = np.array(lengths, np.int32)
    node = helper.make_node("GRU", ["x", "w", "r", "", "lengths"], ["y", "h"], hidden_size=1)
    ends = (("x", [3, batch, 1]), ("y", [3, 1, batch, 1]), ("h", [1, batch, 1]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "gru", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    data, x = model.SerializeToString(), x.astype(np.float32)[:, :, None]
    network = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
    network.setInput(x, "x")
    of = {"onnxruntime": onnxruntime.InferenceSession(data).run(None, {"x": x}), "OpenCV": network.forward(["y", "h"])}
    return {name: (y.reshape(3, batch), h.reshape(batch)) for name, (y, h) in of.items()}


def alike(found, definition):
    return all(np.allclose(*pair, atol=1e-5) for pair in zip(found, definition))


same = True
for padding in (3, -3):
    for lengths in ([3, 3], [2, 3]):
        x = np.array([[1, 1], [2, 2], [padding, 3]], float)
        definition, whole = states(x, np.array(lengths)), states(x, np.array([3, 3]))
        found = by_runtimes(x, lengths)
        shown = {"definition": definition, "OpenCV": found["OpenCV"]}
        text = (f"{of} " + " ".join(f"{v:.3g}" for v in y[:, 0]) + f", then {h[0]:.3g}" for of, (y, h) in shown.items())
        print(f"padding {padding}, length {lengths[0]}: " + "; ".join(text))
        same &= alike(found["onnxruntime"], definition) and alike(found["OpenCV"], whole)
        same &= alike(found["OpenCV"], definition) == (lengths == [3, 3])
sys.exit(not same)
PY
