#!/usr/bin/env bash
# tract fills a Pad of mode reflect or edge with the constant, where the node has one.
#
# ONNX's Pad has an optional input constant_value, which only the mode "constant" uses. tract takes its presence for that
# mode: a reflected border becomes one of zeros, or of whatever number stands there, and nothing is said. Without the input
# the modes are right. Files that come from a converter which always writes this input have the fault in every border.
# A search of tract's issues found no report of it.
#
# Seen with tract 0.23.9, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (1 2 3, one number on each side):
#   reflect: tract 2 1 2 3 2; onnxruntime 2 1 2 3 2
#   reflect, constant_value 7: tract 7 1 2 3 7; onnxruntime 2 1 2 3 2
#   edge: tract 1 1 2 3 3; onnxruntime 1 1 2 3 3
#   edge, constant_value 7: tract 7 1 2 3 7; onnxruntime 1 1 2 3 3
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
X = np.array([[1, 2, 3]], np.float32)
PADS = numpy_helper.from_array(np.array([0, 1, 0, 1]), "pads")
SEVEN = numpy_helper.from_array(np.array(7, np.float32), "seven")


def padded(mode, constants):
    """What tract and onnxruntime make of X."""
    graph = helper.make_graph(
        [helper.make_node("Pad", ["x", *(constant.name for constant in constants)], ["y"], mode=mode)],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, FILE)
    theirs = tract.onnx().load(str(FILE)).into_model().into_runnable().run([X])[0].to_numpy()
    (true,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})
    return [" ".join(f"{value:g}" for value in y.ravel()) for y in (theirs, true)]


same = True
for mode, right in (("reflect", "2 1 2 3 2"), ("edge", "1 1 2 3 3")):
    for suffix, constants, wrong in (("", [PADS], right), (", constant_value 7", [PADS, SEVEN], "7 1 2 3 7")):
        theirs, true = padded(mode, constants)
        print(f"{mode}{suffix}: tract {theirs}; onnxruntime {true}")
        same &= theirs == wrong and true == right
sys.exit(not same)
PY
