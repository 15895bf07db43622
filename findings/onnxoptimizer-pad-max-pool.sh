#!/usr/bin/env bash
# onnxoptimizer folds a Pad of zeros into the MaxPool behind it, whose own padding never wins.
#
# Pad puts zeros around the image, and the maximum counts them; the pads of MaxPool stand for minus infinity. The pass
# fuse_pad_into_pool moves the one into the other, so that each window at the edge that has only negative numbers in it
# gives the largest of these instead of 0. Behind a ReLU nothing shows; behind a leaky ReLU, a Tanh or a normalisation
# all of the edge may change. The pass is in the default list. Reported to its authors (onnx/optimizer, pull request 318).
#
# Seen with onnxoptimizer 0.4.2, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11
# (2 x 2 maxima of -1, -2, ..., -16 as 4 x 4 pixels, one pixel of padding, stride 2):
#   Pad of 0: 0 0 0 0 -6 0 0 0 0, optimised -1 -2 -4 -5 -6 -8 -13 -14 -16
#   Pad of 7: 7 7 7 7 -6 7 7 7 7, optimised 7 7 7 7 -6 7 7 7 7
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnxoptimizer==0.4.2 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxoptimizer
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

X = -np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)


def run(model):
    """The maxima, by onnxruntime without changes of its own to the graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (y,) = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": X})
    return " ".join(f"{value:g}" for value in (y + 0.0).flat)


def network(value):
    """Pad by one pixel of this value, then MaxPool."""
    graph = helper.make_graph(
        [
            helper.make_node("Pad", ["x", "pads", "value"], ["padded"]),
            helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 3, 3])],
        [
            numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads"),
            numpy_helper.from_array(np.float32(value), "value"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


same = []
for value in (0, 7):
    model = network(value)
    before, after = run(model), run(onnxoptimizer.optimize(model))
    print(f"Pad of {value}: {before}, optimised {after}")
    same.append(before == after)
sys.exit(same != [False, True])
PY
