#!/usr/bin/env bash
# ONNX's reference evaluator runs a GRU or LSTM with its default activations, and all sequences to the end.
#
# GRU and LSTM name their functions in `activations`; `clip` bounds what goes into them; the input sequence_lens ends
# each sequence of a batch at its own length; and an LSTM with input_forget = 1 has one gate instead of two. The
# evaluator reads none of these, in silence (of an RNN it reads the activations, and refuses Relu). The shapes are
# right, and the states are those of another network. A converter that compares its results with the evaluator refuses
# networks that it reads well. A search of onnx's issues found no report of it; tract's issue 2751 is about the same
# attributes there.
#
# Seen with onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (the last state for the inputs 1 2 3, or 1 2
# where the length is 2; all weights 0.5):
#   GRU: evaluator 0.424, onnxruntime 0.424, definition 0.424
#   GRU, Sigmoid and Relu: evaluator 0.424, onnxruntime 0.604, definition 0.604
#   GRU, clip 0.5: evaluator 0.424, onnxruntime 0.351, definition 0.351
#   GRU, length 2: evaluator 0.424, onnxruntime 0.329, definition 0.329
#   LSTM: evaluator 0.77, onnxruntime 0.77, definition 0.77
#   LSTM, Sigmoid and Relu: evaluator 0.77, onnxruntime 2.23, definition 2.23
#   LSTM, input_forget: evaluator 0.77, onnxruntime 0.606, definition 0.606
#   LSTM, length 2: evaluator 0.77, onnxruntime 0.501, definition 0.501
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

X = np.array([1, 2, 3], np.float32).reshape(3, 1, 1)


def last_states(operator, attributes, length):
    """The last state by the evaluator and by onnxruntime of a layer of one unit, whose weights are all 0.5."""
    gates = 3 if operator == "GRU" else 4
    constants = {name: np.full((1, gates, 1), 0.5, np.float32) for name in "wr"}
    inputs = ["x", "w", "r"]
    if length < len(X):
        constants["lengths"] = np.array([length], np.int32)
        inputs += ["", "lengths"]
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["", "h"], hidden_size=1, **attributes)],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, 1, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    runs = (ReferenceEvaluator(model), onnxruntime.InferenceSession(model.SerializeToString()))
    return [float(run.run(None, {"x": X})[0].item()) for run in runs]


def relu(x):
    return max(x, 0.0)


def by_numpy(operator, length=3, function=np.tanh, clip=np.inf, coupled=False):
    """The last state by the formulas of the standard; every gate has the same input."""
    state = cell = 0.0
    for x in X.ravel()[:length]:
        inner = 0.5 * x + 0.5 * state
        gate = 1 / (1 + np.exp(-np.clip(inner, -clip, clip)))
        if operator == "GRU":
            new = function(np.clip(0.5 * x + 0.5 * gate * state, -clip, clip))
            state = (1 - gate) * new + gate * state
        else:
            cell = (1 - gate if coupled else gate) * cell + gate * function(inner)
            state = gate * function(cell)
    return float(state)


same = True
for operator, relus in (("GRU", ["Sigmoid", "Relu"]), ("LSTM", ["Sigmoid", "Relu", "Relu"])):
    default = by_numpy(operator)
    own = (
        (", clip 0.5", {"clip": 0.5}, 3, by_numpy(operator, clip=0.5))
        if operator == "GRU"
        else (", input_forget", {"input_forget": 1}, 3, by_numpy(operator, coupled=True))
    )
    for text, attributes, length, definition in (
        ("", {}, 3, default),
        (", Sigmoid and Relu", {"activations": relus}, 3, by_numpy(operator, function=relu)),
        own,
        (", length 2", {}, 2, by_numpy(operator, length=2)),
    ):
        theirs, true = last_states(operator, attributes, length)
        print(f"{operator}{text}: evaluator {theirs:.3g}, onnxruntime {true:.3g}, definition {definition:.3g}")
        same &= np.isclose(true, definition, rtol=1e-4) and np.isclose(theirs, default, rtol=1e-4)
sys.exit(not same)
PY
