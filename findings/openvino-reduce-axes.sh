#!/usr/bin/env bash
# OpenVINO reads ReduceL1, ReduceLogSum and ReduceLogSumExp of ONNX before opset 18 as over all axes.
#
# Up to opset 17 the axes of these operators are an attribute, from 18 on an input. OpenVINO ignores the attribute of
# these three and reduces everything to one number, in silence; with keepdims the shape of the rest still broadcasts. The
# other reductions, and these three from opset 18 on, are right. A LogSumExp over the classes (a smooth maximum of
# logits, or half of a log-softmax) becomes one number for the whole batch.
#
# Seen with openvino 2026.4.1, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11
# (axis 1 of the rows 1 2 3 and 4 5 6, with opset 17):
#   ReduceL1: OpenVINO 21, onnxruntime 6 15
#   ReduceLogSum: OpenVINO 3.04, onnxruntime 1.79 2.71
#   ReduceLogSumExp: OpenVINO 6.46, onnxruntime 3.41 6.41
#   ReduceL2: OpenVINO 3.74 8.77, onnxruntime 3.74 8.77
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper

X = np.arange(1, 7, dtype=np.float32).reshape(2, 3)


def reduced(operator):
    """What OpenVINO and onnxruntime make of X."""
    node = helper.make_node(operator, ["x"], ["y"], axes=[1], keepdims=0)
    graph = helper.make_graph(
        [node],
        "reduce",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return compiled([X])[0], session.run(None, {"x": X})[0]


def shown(y):
    return " ".join(f"{value:.3g}" for value in y.flat)


wrong = []
for operator in ("ReduceL1", "ReduceLogSum", "ReduceLogSumExp", "ReduceL2"):
    vino, runtime = reduced(operator)
    print(f"{operator}: OpenVINO {shown(vino)}, onnxruntime {shown(runtime)}")
    wrong.append(vino.shape == () and runtime.shape == (2,))
sys.exit(wrong != [True, True, True, False])
PY
