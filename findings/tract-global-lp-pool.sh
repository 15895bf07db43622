#!/usr/bin/env bash
# tract's GlobalLpPool divides by the number of pixels to the power of 1 / p.
#
# ONNX's GlobalLpPool is the p-norm of a channel's pixels. tract gives the norm of their mean, (the mean of |x| ** p) to
# the power of 1 / p, as if the pixels were averaged: for 2 x 2 pixels half of the 2-norm, and a quarter of the 1-norm.
#
# Seen with tract 0.23.9, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (of the pixels 1, 2, 3, 4):
#   p = 1: tract 2.5, onnxruntime 10
#   p = 2: tract 2.74, onnxruntime 5.48
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

X = np.array([1, 2, 3, 4], np.float32).reshape(1, 1, 2, 2)


def pooled(p):
    """What tract and onnxruntime make of X."""
    graph = helper.make_graph(
        [helper.make_node("GlobalLpPool", ["x"], ["y"], p=p)],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pool.onnx")
        onnx.save(model, path)
        runnable = tract.onnx().load(str(path)).into_model().into_runnable()
        theirs = runnable.run([X])[0].to_numpy()
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return float(theirs.squeeze()), float(session.run(None, {"x": X})[0].squeeze())


found = []
for p in (1, 2):
    theirs, runtime = pooled(p)
    print(f"p = {p}: tract {theirs:.3g}, onnxruntime {runtime:.3g}")
    found += [abs(runtime - np.linalg.norm(X.ravel(), p)) < 1e-4, abs(theirs * 4 ** (1 / p) - runtime) < 1e-4]
sys.exit(not all(found))
PY
