#!/usr/bin/env bash
# tract's Celu leaves out the factor alpha: below zero it is exp(x / alpha) - 1.
#
# ONNX defines Celu as max(0, x) + min(0, alpha * (exp(x / alpha) - 1)), as the CELU of torch. tract's result below zero
# is 1 / alpha of that, so its slope at zero is 1 / alpha and no longer 1, and its least value -1 instead of -alpha.
# With the default alpha of 1 nothing shows.
#
# Seen with tract 0.23.9, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (at -4, -2, 0 and 1):
#   alpha 1: tract -0.982 -0.865 0 1, onnxruntime -0.982 -0.865 0 1
#   alpha 2: tract -0.865 -0.632 0 1, onnxruntime -1.73 -1.26 0 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tract==0.23.9 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper

X = np.array([[-4, -2, 0, 1]], np.float32)


def applied(alpha):
    """What tract and onnxruntime make of X."""
    graph = helper.make_graph(
        [helper.make_node("Celu", ["x"], ["y"], alpha=alpha)],
        "celu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "celu.onnx")
        onnx.save(model, path)
        runnable = tract.onnx().load(str(path)).into_model().into_runnable()
        theirs = runnable.run([X])[0].to_numpy()
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return theirs, session.run(None, {"x": X})[0]


found = []
for alpha in (1.0, 2.0):
    theirs, runtime = applied(alpha)
    numbers = (" ".join(f"{value:.3g}" for value in y.flat) for y in (theirs, runtime))
    print("alpha {:g}: tract {}, onnxruntime {}".format(alpha, *numbers))
    curve = np.expm1(np.minimum(X, 0) / alpha)
    expected = np.maximum(X, 0) + alpha * curve
    found.append((np.allclose(theirs, expected, atol=1e-4), np.allclose(runtime, expected, atol=1e-4)))
without = np.maximum(X, 0) + curve
sys.exit(found != [(True, True), (False, True)] or not np.allclose(theirs, without, atol=1e-4))
PY
