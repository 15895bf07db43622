#!/usr/bin/env bash
# ONNX's reference evaluator has GlobalMaxPool for images only: signals lose their channels, volumes keep an axis.
#
# GlobalMaxPool leaves one maximum for each example and channel, over all the axes behind them. The evaluator takes the
# last two axes, however many there are. Of a signal, whose axes are example, channel and place, the channels go into one
# maximum, and the result has two axes instead of three; of a volume, depth stays. Images are right, and so is
# GlobalAveragePool. A converter that compares its results with the evaluator refuses networks that it reads well.
#
# Seen with onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (two channels, the numbers from 0 on):
#   signal 1 x 2 x 3: evaluator 1 x 1: 5; onnxruntime 1 x 2 x 1: 2 5
#   image 1 x 2 x 2 x 2: evaluator 1 x 2 x 1 x 1: 3 7; onnxruntime 1 x 2 x 1 x 1: 3 7
#   volume 1 x 2 x 2 x 1 x 2: evaluator 1 x 2 x 2 x 1 x 1 x 1: 1 3 5 7; onnxruntime 1 x 2 x 1 x 1 x 1: 3 7
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
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator


def by_both(operator, x):
    """What the evaluator and onnxruntime make of x."""
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"])],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*x.shape[:2], *[1] * (x.ndim - 2)])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    (theirs,) = ReferenceEvaluator(model).run(None, {"x": x})
    (true,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    return theirs, true


def shown(y):
    return " x ".join(map(str, y.shape)) + ": " + " ".join(f"{value:g}" for value in y.ravel())


same = True
for name, shape in (("signal", (1, 2, 3)), ("image", (1, 2, 2, 2)), ("volume", (1, 2, 2, 1, 2))):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    places = tuple(range(2, x.ndim))
    theirs, true = by_both("GlobalMaxPool", x)
    print(f"{name} {' x '.join(map(str, shape))}: evaluator {shown(theirs)}; onnxruntime {shown(true)}")
    same &= np.array_equal(true, x.max(axis=places, keepdims=True))
    same &= np.array_equal(theirs.ravel(), x.max(axis=(-2, -1)).ravel())
    same &= (theirs.shape == true.shape) == (name == "image")
    same &= all(np.array_equal(y, x.mean(axis=places, keepdims=True)) for y in by_both("GlobalAveragePool", x))
sys.exit(not same)
PY
