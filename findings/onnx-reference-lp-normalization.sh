#!/usr/bin/env bash
# ONNX's reference evaluator divides by the sum, not by the sum of the absolute values, in LpNormalization with p = 1.
#
# The operator divides by the Lp norm along an axis. For p = 1 the evaluator adds the numbers up with their signs:
# (1, -2, 3) becomes (0.5, -1, 1.5) instead of (1, -2, 3) / 6, and numbers whose sum is negative change their signs.
# Behind a ReLU, where nothing is negative, and for p = 2, which is the default, it is right.
#
# Seen with onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11:
#   p = 1 of (1, -2, 3): evaluator (0.5, -1.0, 1.5), onnxruntime (0.167, -0.333, 0.5)
#   p = 1 of (1, -4, 1): evaluator (-0.5, 2.0, -0.5), onnxruntime (0.167, -0.667, 0.167)
#   p = 2 of (1, -2, 2): evaluator (0.333, -0.667, 0.667), onnxruntime (0.333, -0.667, 0.667)
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


def normalised(values, p):
    """What the evaluator and onnxruntime make of three numbers."""
    node = helper.make_node("LpNormalization", ["x"], ["y"], p=p, axis=1)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy")
    graph = helper.make_graph([node], "norm", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    feed = {"x": np.array([values], np.float32)}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    runs = (ReferenceEvaluator(model).run(None, feed), session.run(None, feed))
    return [tuple(round(float(number), 3) for number in run[0][0]) for run in runs]


CASES = {((1, -2, 3), 1): [(0.5, -1.0, 1.5), (0.167, -0.333, 0.5)]}
CASES[(1, -4, 1), 1] = [(-0.5, 2.0, -0.5), (0.167, -0.667, 0.167)]
CASES[(1, -2, 2), 2] = [(0.333, -0.667, 0.667)] * 2
changed = False
for (values, p), seen in CASES.items():
    evaluator, runtime = found = normalised(values, p)
    print(f"p = {p} of {values}: evaluator {evaluator}, onnxruntime {runtime}")
    changed |= found != seen
sys.exit(changed)
PY
