#!/usr/bin/env bash
# ONNX's reference evaluator moves the windows of AveragePool where ceil_mode leaves two numbers or more over.
#
# With ceil_mode the last window may reach beyond the far end of an image; the windows themselves start at 0 and
# go on by the stride. The evaluator pads what the last window lacks, half of it at the near end, so that all
# windows move and even the first one, which lies within the image, has another mean. Where one number is
# lacking, as with kernel 2 and stride 2, nothing moves. MaxPool is right, and onnxruntime follows the standard.
# A converter that compares its results with the evaluator refuses networks that it reads well.
#
# Seen with onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (first row of means of 1, 2, 3, ...):
#   6 x 6, kernel 4, stride 4: evaluator 8.0 10.5, onnxruntime 11.5 14.5
#   7 x 7, kernel 3, stride 3: evaluator 5.0 7.5 9.5, onnxruntime 9.0 12.0 14.0
#   5 x 5, kernel 2, stride 2: evaluator 4.0 6.0 7.5, onnxruntime 4.0 6.0 7.5
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


def first_rows(side, kernel, stride):
    """The first row of what the evaluator and onnxruntime compute."""
    window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2}
    node = helper.make_node("AveragePool", ["x"], ["y"], ceil_mode=1, **window)
    graph = helper.make_graph(
        [node],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, "height", "width"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    x = np.arange(1, side**2 + 1, dtype=np.float32).reshape(1, 1, side, side)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    runs = (ReferenceEvaluator(model).run(None, {"x": x}), session.run(None, {"x": x}))
    return [run[0][0, 0, 0].round(3).tolist() for run in runs]


found = [first_rows(*case) for case in ((6, 4, 4), (7, 3, 3), (5, 2, 2))]
for (side, kernel, stride), rows in zip(((6, 4, 4), (7, 3, 3), (5, 2, 2)), found):
    evaluator, runtime = (" ".join(map(str, row)) for row in rows)
    print(f"{side} x {side}, kernel {kernel}, stride {stride}: evaluator {evaluator}, onnxruntime {runtime}")
seen = [
    [[8.0, 10.5], [11.5, 14.5]],
    [[5.0, 7.5, 9.5], [9.0, 12.0, 14.0]],
    [[4.0, 6.0, 7.5], [4.0, 6.0, 7.5]],
]
sys.exit(found != seen)
PY
