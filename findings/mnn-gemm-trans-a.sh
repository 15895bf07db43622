#!/usr/bin/env bash
# MNN leaves out transA in a Gemm: it takes the numbers in their order for the transposed matrix.
#
# ONNX's Gemm with transA = 1 multiplies the transposed input by the weights. MNN gives the result its right shape and
# fills the rows from the input as it lies in memory, as a Reshape would. mnnconvert reports success. transB, which
# torch writes for its linear layers, is right; transA comes from networks on column vectors and from optimizers that
# fold a Transpose into the Gemm behind it, as onnxoptimizer does.
#
# Seen with MNN 3.6.1, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (the rows 0 1, 2 3 and 4 5 with
# weights that are the unit matrix; below, the rows of the result):
#   transA 1: MNN 0 1 2, 3 4 5; onnxruntime 0 2 4, 1 3 5
#   Transpose, then Gemm: MNN 0 2 4, 1 3 5; onnxruntime 0 2 4, 1 3 5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet MNN==3.6.1 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - "$work" <<'PY'
import subprocess
import sys
from pathlib import Path

import MNN.expr
import MNN.nn
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

work = Path(sys.argv[1])
X = np.arange(6, dtype=np.float32).reshape(3, 2)


def network(nodes):
    weights = {"w": np.eye(3, dtype=np.float32), "c": np.zeros(3, dtype=np.float32)}
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def by_mnn(model):
    onnx.save(model, work / "model.onnx")
    files = ["--modelFile", work / "model.onnx", "--MNNModel", work / "model.mnn"]
    command = [work / "venv/bin/mnnconvert", "-f", "ONNX", *files, "--bizCode", "none"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    loaded = MNN.nn.load_module_from_file(str(work / "model.mnn"), ["x"], ["y"])
    x = MNN.expr.placeholder(list(X.shape), MNN.expr.NCHW, MNN.expr.float)
    x.write(X.ravel().tolist())
    y = MNN.expr.convert(loaded.forward([x])[0], MNN.expr.NCHW)
    return np.array(y.read_as_tuple()).reshape(y.shape)


def shown(y):
    return ", ".join(" ".join(f"{value:g}" for value in row) for row in y)


networks = {
    "transA 1": [helper.make_node("Gemm", ["x", "w", "c"], ["y"], transA=1)],
    "Transpose, then Gemm": [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("Gemm", ["t", "w", "c"], ["y"]),
    ],
}
right = []
for name, nodes in networks.items():
    model = network(nodes)
    theirs = by_mnn(model)
    (true,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})
    print(f"{name}: MNN {shown(theirs)}; onnxruntime {shown(true)}")
    right.append(np.array_equal(theirs, true))
sys.exit(right != [False, True])
PY
