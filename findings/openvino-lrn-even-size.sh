#!/usr/bin/env bash
# OpenVINO's LRN drops a channel of the window where its size is even.
#
# ONNX adds up the squares of the channels from c - floor((size - 1) / 2) to c + ceil((size - 1) / 2): with size 4, one
# before and two behind. OpenVINO takes floor((size - 1) / 2) to both sides, so that size 4 adds up three channels and
# size 2 only its own, though alpha is still divided by the size. It is silent about it. Odd sizes are right. tract
# follows the standard; onnxruntime and OpenCV refuse an even size. A search of OpenVINO's issues found no report of it.
#
# Seen with openvino 2026.4.1, tract 0.23.9 and onnx 1.23.2 on Linux x86-64, Python 3.11 (channels 1 2 3 4 5, alpha the
# size, bias and beta 1):
#   size 2: OpenVINO 0.5 0.4 0.3 0.235 0.192; tract and definition 0.167 0.143 0.115 0.0952 0.192
#   size 3: OpenVINO 0.167 0.133 0.1 0.0784 0.119; tract and definition 0.167 0.133 0.1 0.0784 0.119
#   size 4: OpenVINO 0.167 0.133 0.1 0.0784 0.119; tract and definition 0.0667 0.0645 0.0545 0.0784 0.119
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openvino==2026.4.1 tract==0.23.9 onnx==1.23.2 numpy
"$work/venv/bin/python" - "$work" <<'PY'
import sys
from pathlib import Path

import numpy as np
import onnx
import openvino
import tract
from onnx import TensorProto, helper

FILE = Path(sys.argv[1], "network.onnx")
X = np.arange(1, 6, dtype=np.float32).reshape(1, 5, 1, 1)


def normalised(size):
    """What OpenVINO and tract make of X."""
    node = helper.make_node("LRN", ["x"], ["y"], size=size, alpha=float(size), beta=1.0, bias=1.0)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, X.shape) for name in "xy"]
    graph = helper.make_graph([node], "network", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, FILE)
    core = openvino.Core()
    network = core.compile_model(core.read_model(FILE), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    theirs = network({"x": X})[0].ravel().copy()
    return theirs, tract.onnx().load(str(FILE)).into_model().into_runnable().run([X])[0].to_numpy().ravel()


def by_window(before, behind):
    x = X.ravel()
    squares = [np.sum(x[max(0, c - before) : c + behind + 1] ** 2) for c in range(len(x))]
    return x / (1 + np.array(squares))


def shown(y):
    return " ".join(f"{value:.3g}" for value in y)


same = True
for size in (2, 3, 4):
    theirs, others = normalised(size)
    definition = by_window((size - 1) // 2, size // 2)
    print(f"size {size}: OpenVINO {shown(theirs)}; tract {shown(others)}; definition {shown(definition)}")
    same &= np.allclose(others, definition) and np.allclose(theirs, by_window((size - 1) // 2, (size - 1) // 2))
sys.exit(not same)
PY
