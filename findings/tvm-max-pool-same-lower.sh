#!/usr/bin/env bash
# TVM's MaxPool with SAME_LOWER loses a row and a column where the size is no multiple of the stride.
#
# With auto_pad SAME a pool has ceil(size / stride) windows. TVM's reader of ONNX counts floor(size / stride) for SAME_LOWER,
# and ceil for SAME_UPPER. The padding comes from that count and is then negative as a rule, so that the image is cropped as
# well: the windows that are left lie elsewhere. 5 x 5 pixels with stride 2 give 2 x 2 outputs, also where the file says
# 3 x 3; the compiler checks no shape. What is behind it, such as a GlobalAveragePool, computes on. Sizes that the stride
# divides are right, and so is AveragePool.
#
# Seen with apache-tvm 0.27.0.post1, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (windows of 3 x 3 with
# stride 2 over the numbers from 1 on):
#   MaxPool SAME_UPPER, 5 x 5: onnxruntime [3, 3] 7 9 10 17 19 20 22 24 25, TVM [3, 3] 7 9 10 17 19 20 22 24 25
#   MaxPool SAME_LOWER, 5 x 5: onnxruntime [3, 3] 7 9 10 17 19 20 22 24 25, TVM [2, 2] 13 15 23 25
#   MaxPool SAME_LOWER, 6 x 6: onnxruntime [3, 3] 8 10 12 20 22 24 32 34 36, TVM [3, 3] 8 10 12 20 22 24 32 34 36
#   AveragePool SAME_LOWER, 5 x 5: onnxruntime [3, 3] 4 5.5 7 11.5 13 14.5 19 20.5 22, TVM [3, 3] 4 5.5 7 11.5 13 14.5 19 20.5 22
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet apache-tvm==0.27.0.post1 onnx==1.23.2 onnxruntime==1.32.0 numpy
TVM_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx


def by_both(operator, size, auto_pad):
    """What onnxruntime and TVM make of the numbers from 1 to size * size as an image."""
    x = np.arange(1, size * size + 1, dtype=np.float32).reshape(1, 1, size, size)
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], auto_pad=auto_pad)],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 3, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    (true,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    built = tvm.compile(relax.transform.LegalizeOps()(from_onnx(model)), target="llvm")
    theirs = relax.VirtualMachine(built, tvm.cpu())["main"](tvm.runtime.tensor(x))
    return true[0, 0], theirs.numpy()[0, 0]


def shown(y):
    return f"{list(y.shape)} {' '.join(f'{value:g}' for value in y.ravel())}"


found = []
for operator, auto_pad, size in (
    ("MaxPool", "SAME_UPPER", 5),
    ("MaxPool", "SAME_LOWER", 5),
    ("MaxPool", "SAME_LOWER", 6),
    ("AveragePool", "SAME_LOWER", 5),
):
    true, theirs = by_both(operator, size, auto_pad)
    print(f"{operator} {auto_pad}, {size} x {size}: onnxruntime {shown(true)}, TVM {shown(theirs)}")
    found.append(true.shape == theirs.shape and np.allclose(true, theirs))
sys.exit(found != [True, False, True, True])
PY
