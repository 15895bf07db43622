#!/usr/bin/env bash
# onnx2torch 1.5.15 adds up CumSum from the end.
#
# ONNX says that CumSum goes forwards where its attribute reverse is absent; onnx2torch takes the absent
# attribute as 1. With the attribute written out the result is right. The conversion succeeds either way.
#
# Seen with onnx2torch 1.5.15, torch 2.11.0, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11:
#   reverse absent: onnxruntime 1 3 6 10, onnx2torch 10 9 7 4
#   reverse = 0: onnxruntime 1 3 6 10, onnx2torch 1 3 6 10
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 torchvision onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/pip" install --quiet --no-deps onnx2torch==1.5.15
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import onnx
import onnx2torch
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper


def network(**attributes):
    node = helper.make_node("CumSum", ["x", "axis"], ["y"], **attributes)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    axis = numpy_helper.from_array(np.array(1), "axis")
    graph = helper.make_graph([node], "network", ends[:1], ends[1:], [axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


x, found = np.array([[1, 2, 3, 4]], dtype=np.float32), []
for name, attributes in (("reverse absent", {}), ("reverse = 0", {"reverse": 0})):
    model = network(**attributes)
    (true,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    theirs = onnx2torch.convert(model).eval()(torch.tensor(x)).numpy()
    true, theirs = (" ".join(f"{v:g}" for v in part.ravel()) for part in (true, theirs))
    print(f"{name}: onnxruntime {true}, onnx2torch {theirs}")
    found.append(theirs)
sys.exit(found != ["10 9 7 4", "1 3 6 10"])
PY
