#!/usr/bin/env bash
# onnxslim folds a product along the width of an image into the channels of the convolution before it.
#
# Conv, then Mul by a constant of shape (W,): by ONNX's rules of broadcasting this is one factor for each column.
# Where W happens to be the number of output channels, onnxslim multiplies the kernels by it, one factor for each
# channel, and drops the Mul. The file stays valid and gives other values; onnxslim says nothing. Where the factors
# have shape (C, 1, 1), which is what channels have, or W is another number, the values stay.
#
# Seen with onnxslim 0.1.98, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (largest change of an
# output; four channels; outputs are at most 40):
#   factors (4,), images 4 wide: 36
#   factors (4, 1, 1), images 4 wide: 0
#   factors (6,), images 6 wide: 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnxslim==0.1.98 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import onnxslim
from onnx import TensorProto, helper, numpy_helper


def model(factors, width):
    """A 1x1 convolution of one channel into four, and a product of its result."""
    shape = [1, 4, 1, width]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["z"]), helper.make_node("Mul", ["z", "s"], ["y"])],
        "scaled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 1, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.array([1, 2, 3, 4], np.float32).reshape(4, 1, 1, 1), "w"),
            numpy_helper.from_array(factors.astype(np.float32), "s"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def outputs(made, width):
    session = onnxruntime.InferenceSession(made.SerializeToString())
    return session.run(None, {"x": np.ones((1, 1, 1, width), np.float32)})[0]


found = []
for factors, width in (
    (np.array([1, 10, 1, 1]), 4),
    (np.array([1, 10, 1, 1]).reshape(4, 1, 1), 4),
    (np.array([1, 10, 1, 1, 1, 1]), 6),
):
    before = outputs(model(factors, width), width)
    right = np.arange(1, 5).reshape(1, 4, 1, 1) * np.ones((1, 1, 1, width)) * factors
    after = outputs(onnxslim.slim(model(factors, width)), width)
    change = float(np.abs(after - before).max())
    shape = str(factors.shape)
    print(f"factors {shape}, images {width} wide: {change:g}")
    found.append([np.allclose(before, right), change > 1])
sys.exit(found != [[True, True], [True, False], [True, False]])
PY
