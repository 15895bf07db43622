#!/usr/bin/env bash
# tract crops a ConvTranspose with output_shape at its far end only.
#
# ONNX lets output_shape name the size of the result. What is too much is total_padding, of which the beginning loses half,
# and the end too; of an odd number the beginning loses the greater half, unless auto_pad is SAME_UPPER. tract gives the
# right size and cuts all of it off at the end, so that each output is another pixel's. It is silent about it. Pads that
# are written out are right. A search of tract's issues found no report of it.
#
# Seen with tract 0.23.9, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (1 2 3 with the kernel
# 1 10 100 and stride 2, whose whole result is 1 10 102 20 203 30 300):
#   output_shape 7: tract 1 10 102 20 203 30 300; onnxruntime 1 10 102 20 203 30 300
#   output_shape 6: tract 1 10 102 20 203 30; onnxruntime 10 102 20 203 30 300
#   output_shape 5: tract 1 10 102 20 203; onnxruntime 10 102 20 203 30
#   pads 1 1: tract 10 102 20 203 30; onnxruntime 10 102 20 203 30
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tract==0.23.9 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - "$work" <<'PY'
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper, numpy_helper

FILE = Path(sys.argv[1], "network.onnx")
X = np.array([[[1, 2, 3]]], np.float32)
KERNEL = np.array([[[1, 10, 100]]], np.float32)
WHOLE = [1, 10, 102, 20, 203, 30, 300]


def results(length, **attributes):
    """What tract and onnxruntime make of X."""
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["x", "kernel"], ["y"], strides=[2], **attributes)],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, length])],
        [numpy_helper.from_array(KERNEL, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, FILE)
    theirs = tract.onnx().load(str(FILE)).into_model().into_runnable().run([X])[0].to_numpy()
    (true,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})
    return [[round(value) for value in y.ravel().tolist()] for y in (theirs, true)]


cases = {
    "output_shape 7": (WHOLE, WHOLE, {"output_shape": [7]}),
    "output_shape 6": (WHOLE[:6], WHOLE[1:], {"output_shape": [6]}),
    "output_shape 5": (WHOLE[:5], WHOLE[1:6], {"output_shape": [5]}),
    "pads 1 1": (WHOLE[1:6], WHOLE[1:6], {"pads": [1, 1]}),
}
same = True
for name, (wrong, right, attributes) in cases.items():
    theirs, true = results(len(right), **attributes)
    print(f"{name}: tract {' '.join(map(str, theirs))}; onnxruntime {' '.join(map(str, true))}")
    same &= theirs == wrong and true == right
sys.exit(not same)
PY
