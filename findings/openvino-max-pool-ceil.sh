#!/usr/bin/env bash
# OpenVINO's MaxPool with ceil_mode gives windows that lie outside the image, as values of -3.4e38.
#
# With ceil_mode the last window may reach beyond the far end, but it has to start within the image: so it is in
# torch, in onnxruntime, and in ONNX's shape inference from opset 22 on. OpenVINO keeps a window that starts beyond,
# so that the result has a row and a column more, filled with the lowest number of float32. A fully connected layer
# behind it no longer fits, and a mean or a sum of the result is lost. AveragePool has the right windows.
#
# Seen with openvino 2026.4.1, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11
# (6 x 6, kernel 2, stride 3, last row):
#   MaxPool: OpenVINO (3, 3) -3.4e+38 -3.4e+38 -3.4e+38, onnxruntime (2, 2) 26 29
#   AveragePool: OpenVINO (2, 2) 22.5 25.5, onnxruntime (2, 2) 22.5 25.5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper


def pooled(operator):
    """What OpenVINO and onnxruntime make of an image of 6 x 6."""
    node = helper.make_node(operator, ["x"], ["y"], kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1)
    graph = helper.make_graph(
        [node],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    x = np.arange(1, 37, dtype=np.float32).reshape(1, 1, 6, 6)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return [found[0, 0] for found in (compiled([x])[0], session.run(None, {"x": x})[0])]


found = {operator: pooled(operator) for operator in ("MaxPool", "AveragePool")}
for operator, results in found.items():
    vino, runtime = (f"{y.shape} " + " ".join(f"{v:.3g}" for v in y[-1]) for y in results)
    print(f"{operator}: OpenVINO {vino}, onnxruntime {runtime}")
(vino, runtime), (mean, expected) = found.values()
outside = vino.shape == (3, 3) and (vino[-1] < -3e38).all() and (vino[:, -1] < -3e38).all()
sys.exit(not (outside and runtime.shape == (2, 2) and np.allclose(mean, expected, rtol=1e-2)))
PY
