#!/usr/bin/env bash
# ONNX's reference evaluator normalises by the batch in BatchNormalization of opsets 9 to 13.
#
# Outside training the operator uses the stored mean and variance alone: an input's result does not depend
# on the others in its batch. In files of opset 9 to 13 the reference evaluator first moves the stored
# statistics towards those of the batch, at the attribute `momentum` (0.9 by default), so that a batch of
# one and the same input within a batch differ; it does so too where the file has one output, which is how
# inference was told from training then. From opset 14 on it is right; onnxruntime is right everywhere. A
# tool that compares a network with the evaluator, image by image, sees differences of the order of the
# network's own values, and the cure is momentum = 1.
#
# Seen with onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (largest distance of the
# evaluator's and onnxruntime's results from the formula):
#   opset 9: 4.01, 0.00      opset 13: 4.01, 0.00      opset 14: 0.00, 0.00
#   opset 9 with momentum 1: 0.00, 0.00
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

MEAN, VARIANCE = np.float32([1.0, -1.0]), np.float32([4.0, 0.25])


def distances(opset, **attributes):
    """How far both programs are from (x - mean) / sqrt(variance)."""
    names = ("scale", "bias", "mean", "variance")
    values = (np.ones(2, np.float32), np.zeros(2, np.float32), MEAN, VARIANCE)
    node = helper.make_node("BatchNormalization", ["x", *names], ["y"], epsilon=0.0, **attributes)
    graph = helper.make_graph(
        [node],
        "norm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 2])],
        [numpy_helper.from_array(value, name) for name, value in zip(names, values)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    right = (x - MEAN) / np.sqrt(VARIANCE)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    results = (ReferenceEvaluator(model).run(None, {"x": x}), session.run(None, {"x": x}))
    return [float(np.abs(result[0] - right).max()) for result in results]


found = {}
for name, opset, attributes in (
    ("opset 9", 9, {}), ("opset 13", 13, {}), ("opset 14", 14, {}),
    ("opset 9 with momentum 1", 9, {"momentum": 1.0}),
):
    found[name] = distances(opset, **attributes)
    print(f"{name}: {found[name][0]:.2f}, {found[name][1]:.2f}")
wrong = [name for name, (evaluator, runtime) in found.items() if evaluator > 1e-3]
sys.exit(wrong != ["opset 9", "opset 13"] or max(runtime for _, runtime in found.values()) > 1e-5)
PY
