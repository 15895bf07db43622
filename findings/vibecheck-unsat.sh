#!/usr/bin/env bash
# vibecheck-nn 1.1.0 answers unsat to queries that an input plainly satisfies.
#
# Two causes, each on an ONNX file of one operator, which onnx's checker and onnxruntime take: Gemm's
# attribute alpha is ignored; and a graph that cannot be loaded (here BatchNormalization whose numbers come
# from Constant nodes, "KeyError: 'scale'") is handed to a search meant for integer inputs, which tries a
# single point and calls that complete. Imported results count a verifier's unsat as a proof.
#
# Seen with vibecheck-nn 1.1.0, torch 2.11.0, onnx 1.21.0 and onnxruntime 1.26.0 on Linux x86-64, Python
# 3.11 (what onnxruntime computes at an input in the box, what is asked, the answer):
#   Gemm: Y = 4.0, is Y >= 3.5 possible? unsat
#   BatchNormalization: Y = 0.5, is Y >= 0.25 possible? unsat
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 vibecheck-nn==1.1.0 onnx==1.21.0 onnxruntime==1.26.0
cd "$work"
PATH="$work/venv/bin:$PATH" "$work/venv/bin/python" - <<'PY'
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

QUERY = """(vnnlib-version <2.0>)
(declare-network N
    (declare-input X float32 [1,{inputs}])
    (declare-output Y float32 [1,1])
)
{box}
(assert (>= Y[0,0] {threshold}))
"""


def answer(operator, constants, attributes, inputs, threshold):
    """What Y is at an input of ones, and the verdict on Y >= threshold in the box [0, 1]."""
    node = helper.make_node(operator, ["X", *constants], ["Y"], **attributes)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in (("X", inputs), ("Y", 1))
    ]
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.float32(value)))
        for name, value in constants.items()
    ]
    graph = helper.make_graph([*nodes, node], operator, ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, "net.onnx")
    box = "\n".join(
        f"(assert ({sign} X[0,{i}] {end}))"
        for i in range(inputs) for sign, end in ((">=", "0.0"), ("<=", "1.0"))
    )
    with open("query.vnnlib", "w") as file:
        file.write(QUERY.format(inputs=inputs, box=box, threshold=threshold))
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    value = float(session.run(None, {"X": np.ones((1, inputs), np.float32)})[0][0, 0])
    command = ["vibecheck", "verify", "query.vnnlib", "--network", "N=net.onnx", "--timeout", "60"]
    verdict = subprocess.run(command, capture_output=True, text=True).stdout.split()[0]
    print(f"{operator}: Y = {value}, is Y >= {threshold} possible? {verdict}")
    return value, verdict


found = [
    answer("Gemm", {"W": [[1, 1]], "B": [0]}, {"alpha": 2.0, "transB": 1}, 2, 3.5),
    answer("BatchNormalization", {"scale": [4], "B": [0.5], "mean": [1], "var": [4]},
           {"epsilon": 0.0}, 1, 0.25),
]
sys.exit([(round(value, 3), verdict) for value, verdict in found] != [(4.0, "unsat"), (0.5, "unsat")])
PY
