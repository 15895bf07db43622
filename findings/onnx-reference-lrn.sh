#!/usr/bin/env bash
# ONNX's reference evaluator computes LRN of as many channels as the batch has inputs, and no more.
#
# LRN divides each channel by (bias + alpha / size * the squares of its neighbours) ** beta. The evaluator
# adds the squares up for channel c only while c is below the size of the batch: of a batch of one, the
# first channel is right, and the others are divided by bias ** beta, which is an infinity for bias 0.
# Networks such as AlexNet and GoogLeNet have the operator.
#
# Seen with onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (distance of each channel from
# the formula, of five):
#   batch of 1: evaluator 0.00 1.17 2.23 3.33 4.02, onnxruntime 0.00 0.00 0.00 0.00 0.00
#   batch of 5: evaluator 0.00 0.00 0.00 0.00 0.00, onnxruntime 0.00 0.00 0.00 0.00 0.00
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


def distances(batch):
    """How far the evaluator and onnxruntime are from the formula, by channel."""
    shape = [batch, 5, 1, 1]
    node = helper.make_node("LRN", ["x"], ["y"], size=3, alpha=0.3, beta=1.0, bias=1.0)
    graph = helper.make_graph(
        [node],
        "lrn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    x = np.tile(np.arange(1, 6, dtype=np.float32).reshape(1, 5, 1, 1), (batch, 1, 1, 1))
    squares = np.pad(x**2, [(0, 0), (1, 1), (0, 0), (0, 0)])
    right = x / (1 + 0.1 * (squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:]))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    results = (ReferenceEvaluator(model).run(None, {"x": x}), session.run(None, {"x": x}))
    return [np.abs(result[0] - right).max((0, 2, 3)) for result in results]


def shown(numbers):
    return " ".join(f"{number:.2f}" for number in numbers)


found = {batch: distances(batch) for batch in (1, 5)}
for batch, (evaluator, runtime) in found.items():
    print(f"batch of {batch}: evaluator {shown(evaluator)}, onnxruntime {shown(runtime)}")
as_seen = (found[1][0] > 1e-3).tolist() == [False, True, True, True, True]
right = max(found[1][1].max(), found[5][0].max(), found[5][1].max()) < 1e-5
sys.exit(not (as_seen and right))
PY
