#!/usr/bin/env bash
# ONNX's reference evaluator reads Softmax and Hardmax of old files by the rule of new ones.
#
# Up to opset 12 both work on the input made a matrix at `axis` (1 by default): all numbers of an example
# share one sum. Opset 13 changed it to one axis (-1 by default). The reference evaluator applies the new
# rule whatever the opset; onnxruntime follows the file. For inputs of two axes both rules agree, so that
# only heads of more axes, and attention, show it.
#
# Seen with onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (sums of the results of one
# example, of shape (3, 4); by the rule 1 up to opset 12, and 3 from 13 on):
#   Softmax, opset 12: evaluator 3, onnxruntime 1      opset 13: evaluator 3, onnxruntime 3
#   Hardmax, opset 12: evaluator 3, onnxruntime 1      opset 13: evaluator 3, onnxruntime 3
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


def sums(operator, opset):
    """The sum of an example's results, by the evaluator and by onnxruntime."""
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"])],
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.checker.check_model(model)
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    results = (ReferenceEvaluator(model).run(None, {"x": x}), session.run(None, {"x": x}))
    return [round(float(result[0].sum())) for result in results]


found = {}
for operator in ("Softmax", "Hardmax"):
    for opset in (12, 13):
        found[operator, opset] = sums(operator, opset)
        evaluator, runtime = found[operator, opset]
        print(f"{operator}, opset {opset}: evaluator {evaluator}, onnxruntime {runtime}")
sys.exit(list(found.values()) != [[3, 1], [3, 3]] * 2)
PY
