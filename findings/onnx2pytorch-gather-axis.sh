#!/usr/bin/env bash
# onnx2pytorch's Gather with a negative axis gathers along the first axis instead.
#
# ONNX allows axes from -rank to rank - 1. onnx2pytorch puts as many whole slices before the indices as the axis says,
# none if it is negative, so the indices pick from axis 0. Where both axes are long enough, nothing is said; where the
# shapes agree as well, the numbers are simply others. Exporters write a negative axis for x[..., i] and for
# index_select(-1, i), and verifiers that read ONNX through onnx2pytorch judge another network.
#
# Seen with onnx2pytorch 0.6.0, torch 2.11.0, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11
# (columns 1 and 0 of the rows 1 2 3, 4 5 6 and 7 8 9):
#   axis 1: onnx2pytorch 2 1 5 4 8 7, onnxruntime 2 1 5 4 8 7
#   axis -1: onnx2pytorch 4 5 6 1 2 3, onnxruntime 2 1 5 4 8 7
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 torchvision==0.26.0 onnx2pytorch==0.6.0 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx2pytorch import ConvertModel

X = np.arange(1, 10, dtype=np.float32).reshape(3, 3)


def gathered(axis):
    """What onnx2pytorch and onnxruntime make of X."""
    indices = numpy_helper.from_array(np.array([1, 0]), "i")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["x", "i"], ["y"], axis=axis)],
        "gather",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 2])],
        [indices],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    converted = ConvertModel(model, experimental=True).eval()
    return converted(torch.from_numpy(X)).numpy(), session.run(None, {"x": X})[0]


equal = []
for axis in (1, -1):
    theirs, runtime = gathered(axis)
    numbers = (" ".join(f"{value:g}" for value in y.flat) for y in (theirs, runtime))
    print("axis {}: onnx2pytorch {}, onnxruntime {}".format(axis, *numbers))
    equal.append((np.array_equal(theirs, runtime), np.array_equal(runtime, X[:, [1, 0]])))
sys.exit(equal != [(True, True), (False, True)] or not np.array_equal(theirs, X[[1, 0]]))
PY
