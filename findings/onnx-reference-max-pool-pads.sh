#!/usr/bin/env bash
# ONNX's reference evaluator swaps height and width in the pads of MaxPool.
#
# A max pool whose strides are all 1 and that pads the columns of an image, pads = [0, 1, 0, 1], gives a
# result with more rows and fewer columns than the standard says; padded rows are wrong as well, and pads that
# are equal on all sides hide it. With other strides the pads are right; there
# auto_pad = SAME_LOWER counts floor(side / stride) windows, where the standard has the ceiling. AveragePool
# is right. A converter that compares its results with the evaluator refuses networks that it reads well.
#
# Seen with onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (shapes of 2 x 2 maxima):
#   4 x 4, columns padded by 1: evaluator (4, 4), onnxruntime (3, 5)
#   4 x 4, rows padded by 1: evaluator (4, 4), onnxruntime (5, 3)
#   5 x 5, strides 2, SAME_LOWER: evaluator (2, 2), onnxruntime (3, 3)
#   5 x 5, strides 2, SAME_UPPER: evaluator (3, 3), onnxruntime (3, 3)
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

CASES = {
    "4 x 4, columns padded by 1": (4, {"pads": [0, 1, 0, 1]}),
    "4 x 4, rows padded by 1": (4, {"pads": [1, 0, 1, 0]}),
    "5 x 5, strides 2, SAME_LOWER": (5, {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "5 x 5, strides 2, SAME_UPPER": (5, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
}


def shapes(side, options):
    """The height and width of what the evaluator and onnxruntime compute."""
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], **options)
    graph = helper.make_graph(
        [node],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, "height", "width"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    x = np.arange(side**2, dtype=np.float32).reshape(1, 1, side, side)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    runs = (ReferenceEvaluator(model).run(None, {"x": x}), session.run(None, {"x": x}))
    return [run[0].shape[2:] for run in runs]


found = {name: shapes(*case) for name, case in CASES.items()}
for name, (evaluator, runtime) in found.items():
    print(f"{name}: evaluator {evaluator}, onnxruntime {runtime}")
seen = [[(4, 4), (3, 5)], [(4, 4), (5, 3)], [(2, 2), (3, 3)], [(3, 3), (3, 3)]]
sys.exit(list(found.values()) != seen)
PY
