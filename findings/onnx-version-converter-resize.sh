#!/usr/bin/env bash
# ONNX's version converter changes the pixels of a Resize or an Upsample of opset 10 and before.
#
# Until opset 10 the place of an output pixel in the input is its number divided by the scale, rounded down for
# "nearest", as onnxruntime has it. Opset 11 made both a choice, with other defaults: half_pixel and round_prefer_floor.
# The converter leaves the new attributes out, so that the new file computes another network, which onnx's checker
# takes. Whole scales of "nearest" give the same pixels by either rule. Reported to its authors (onnx, issue 8480).
#
# Seen with onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (along one axis):
#   Upsample, linear, of 0 1 by 2: 0 0.5 1 1, converted 0 0.25 0.75 1
#   Resize, linear, of 0 1 by 2: 0 0.5 1 1, converted 0 0.25 0.75 1
#   Resize, nearest, of 0 1 2 3 4 5 by 0.4: 0 3, converted 1 3
#   Resize, nearest, of 0 1 2 by 3: 0 0 0 1 1 1 2 2 2, converted 0 0 0 1 1 1 2 2 2
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
from onnx import TensorProto, helper, numpy_helper, version_converter


def network(operator, opset, mode, side, scale):
    """An image of one row, `side` pixels wide, scaled along the row."""
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "scales"], ["y"], mode=mode)],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 1, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, int(side * scale)])],
        [numpy_helper.from_array(np.array([1, 1, 1, scale], dtype=np.float32), "scales")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=5)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model):
    width = model.graph.input[0].type.tensor_type.shape.dim[3].dim_value
    x = np.arange(width, dtype=np.float32).reshape(1, 1, 1, width)
    (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    return " ".join(f"{value:.3g}" for value in y.flat)


same = []
for operator, opset, mode, side, scale in (
    ("Upsample", 9, "linear", 2, 2),
    ("Resize", 10, "linear", 2, 2),
    ("Resize", 10, "nearest", 6, 0.4),
    ("Resize", 10, "nearest", 3, 3),
):
    model = network(operator, opset, mode, side, scale)
    before, after = run(model), run(version_converter.convert_version(model, 17))
    pixels = " ".join(map(str, range(side)))
    print(f"{operator}, {mode}, of {pixels} by {scale:g}: {before}, converted {after}")
    same.append(before == after)
sys.exit(same != [False, False, False, True])
PY
