#!/usr/bin/env bash
# torch's LPPool with ceil_mode scales up the windows that reach beyond the input.
#
# The documentation has the p-norm of the numbers in the window. torch takes the mean of the powers and multiplies it by the
# size of the kernel; but in ceil mode the mean of a window that reaches beyond is one of the numbers that exist. The
# last window of an odd length counts its only number twice, and a corner of an image four times. Nothing is said. A network
# with such a layer has other outputs in onnxruntime, whose LpPool is the norm. We found no report of the values: pytorch's
# pull request 163186, on ceil mode in the documentation of these layers, is about the number of windows.
#
# Seen with torch 2.13.0, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (three ones, kernel and stride 2):
#   norm 1: torch 2 2; onnxruntime 2 1; the norm 2 1
#   norm 2: torch 1.41 1.41; onnxruntime 1.41 1; the norm 1.41 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

X = torch.ones(1, 1, 3)


def by_onnxruntime(p):
    node = helper.make_node("LpPool", ["x"], ["y"], kernel_shape=[2], strides=[2], ceil_mode=1, p=p)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, n]) for name, n in (("x", 3), ("y", 2))]
    graph = helper.make_graph([node], "pool", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X.numpy()})[0]


def shown(y):
    return " ".join(f"{value:.3g}" for value in np.ravel(y))


same = True
for p in (1, 2):
    theirs = torch.nn.LPPool1d(p, 2, ceil_mode=True)(X).numpy()
    runtime = by_onnxruntime(p)
    norm = [float(torch.linalg.vector_norm(X[..., begin : begin + 2], p)) for begin in (0, 2)]
    print(f"norm {p}: torch {shown(theirs)}; onnxruntime {shown(runtime)}; the norm {shown(norm)}")
    same &= np.allclose(runtime, norm) and np.allclose(theirs, [norm[0], norm[0]])
sys.exit(not same)
PY
