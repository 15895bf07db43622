#!/usr/bin/env bash
# OpenVINO ignores exclude_outside of a cubic Resize.
#
# ONNX: with exclude_outside = 1 places outside the image have the weight 0, and the other weights are scaled up to a sum
# of 1. OpenVINO repeats the pixels at the border, as is right for 0, the default, in silence; a border of two pixels is
# off. TensorFlow's cubic resize is of this kind, with cubic_coeff_a = -0.5. A search of OpenVINO's issues found no report
# of it (35893 there is of antialias).
#
# Seen with openvino 2026.4.1, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (0 10 20 30, twice as wide):
#   exclude_outside 0, first three: definition -0.703 1.8 7.27; onnxruntime -0.703 1.8 7.27; OpenVINO -0.703 1.8 7.27
#   exclude_outside 1, first three: definition -0.882 1.68 7.1; onnxruntime -0.882 1.68 7.1; OpenVINO -0.703 1.8 7.27
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
from onnx import TensorProto, helper, numpy_helper

X = 10 * np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)
A = -0.5


def weight(d):
    """The cubic filter of a = A at the distance d."""
    if d <= 1:
        return (A + 2) * d**3 - (A + 3) * d**2 + 1
    return A * d**3 - 5 * A * d**2 + 8 * A * d - 4 * A if d < 2 else 0.0


def definition(exclude):
    """The row at twice its width: x comes from (x + 0.5) / 2 - 0.5."""
    row = []
    for at in (np.arange(8) + 0.5) / 2 - 0.5:
        near = [int(np.floor(at)) + step for step in (-1, 0, 1, 2)]
        weights = [0.0 if exclude and not 0 <= i < 4 else weight(abs(at - i)) for i in near]
        row.append(sum(w * 10 * min(max(i, 0), 3) for w, i in zip(weights, near)) / sum(weights))
    return np.array(row)


def resized(exclude):
    """What onnxruntime and OpenVINO make of the row."""
    attributes = {"mode": "cubic", "cubic_coeff_a": A, "exclude_outside": exclude}
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], **attributes)
    ends = (("x", X.shape), ("y", (1, 1, 1, 8)))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends]
    scales = numpy_helper.from_array(np.array([1, 1, 1, 2], np.float32), "scales")
    graph = helper.make_graph([node], "resize", ends[:1], ends[1:], [scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return onnxruntime.InferenceSession(data).run(None, {"x": X})[0].ravel(), compiled([X])[0].ravel()


same = True
for exclude in (0, 1):
    right, (true, theirs) = definition(exclude), resized(exclude)
    shown = {"definition": right, "onnxruntime": true, "OpenVINO": theirs}
    text = (f"{of} " + " ".join(f"{v:.3g}" for v in y[:3]) for of, y in shown.items())
    print(f"exclude_outside {exclude}, first three: " + "; ".join(text))
    same &= np.allclose(true, right, atol=1e-3) and np.allclose(theirs, definition(0), atol=1e-3)
    same &= np.allclose(theirs, right, atol=1e-3) == (exclude == 0)
sys.exit(not same)
PY
