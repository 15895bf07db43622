#!/usr/bin/env bash
# onnx2torch ignores the output_shape of a ConvTranspose.
#
# ONNX lets output_shape name the size of the result; the pads follow from it. onnx2torch builds the layer from pads and
# output_padding alone, so that the result has another size and, where it is cropped, other pixels. Nothing is said: a
# mean over the pixels, as global pooling takes it, goes on with other numbers.
#
# Seen with onnx2torch 1.5.15, torch 2.11.0, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11
# (2 x 2 pixels, a kernel of 3 x 3 ones, stride 2; the size and the mean of the result):
#   output_shape 5 x 5: onnx2torch 5 x 5 mean 3.6, onnxruntime 5 x 5 mean 3.6
#   output_shape 4 x 4: onnx2torch 5 x 5 mean 3.6, onnxruntime 4 x 4 mean 4.38
#   output_shape 6 x 6: onnx2torch 5 x 5 mean 3.6, onnxruntime 6 x 6 mean 2.5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 torchvision==0.26.0 onnx2torch==1.5.15 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import onnx2torch
import torch
from onnx import TensorProto, helper, numpy_helper

X = np.array([1, 2, 3, 4], np.float32).reshape(1, 1, 2, 2)


def enlarged(side):
    """What onnx2torch and onnxruntime make of X."""
    kernel = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], output_shape=[side] * 2)
    graph = helper.make_graph(
        [node],
        "transposed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, side, side])],
        [kernel],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    theirs = onnx2torch.convert(model)(torch.from_numpy(X)).detach().numpy()
    return theirs[0, 0], session.run(None, {"x": X})[0][0, 0]


sizes = []
for side in (5, 4, 6):
    results = enlarged(side)
    shown = ("{} x {} mean {:.3g}".format(*y.shape, y.mean()) for y in results)
    print("output_shape {0} x {0}: onnx2torch {1}, onnxruntime {2}".format(side, *shown))
    sizes.append(tuple(len(y) for y in results))
sys.exit(sizes != [(5, 5), (5, 4), (5, 6)])
PY
