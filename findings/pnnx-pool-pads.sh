#!/usr/bin/env bash
# pnnx, ncnn's converter, pools by other windows than the ONNX file where its pads differ, or are "SAME".
#
# It writes pads of a MaxPool that differ between the ends as a layer Padding before the pool, and as the pool's own padding
# once more, so that the windows lie elsewhere and there are more of them, also such as see no pixel. An AveragePool with
# auto_pad SAME gets a layer Padding of zeros, and these zeros count as pixels, although count_include_pad is 0. pnnx says
# nothing of it, and its own report shows the sizes of the ONNX file. Pads that are equal at both ends are right.
#
# Seen with pnnx 20261020, ncnn 1.0.20261020, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (windows of
# 3 x 3 over the numbers 1 to 36 as 6 x 6 pixels; the first nine outputs):
#   MaxPool, stride 2, pads 1 1 1 1: onnxruntime [3, 3] 8 10 12 20 22 24 32 34 36, ncnn [3, 3] 8 10 12 20 22 24 32 34 36
#   MaxPool, stride 2, pads 1 1 0 0: onnxruntime [3, 3] 8 10 12 20 22 24 32 34 36, ncnn [4, 4] 1 3 5 6 13 15 17 18 25
#   MaxPool, stride 2, pads 1 1 0 1: onnxruntime [3, 3] 8 10 12 20 22 24 32 34 36, ncnn [4, 5] 1 3 5 6 -3.403e+38 13 15 17 18
#   AveragePool, stride 1, pads 1 1 1 1: onnxruntime [6, 6] 4.5 5 6 7 8 8.5 7.5 8 9, ncnn [6, 6] 4.5 5 6 7 8 8.5 7.5 8 9
#   AveragePool, stride 1, SAME_UPPER: onnxruntime [6, 6] 4.5 5 6 7 8 8.5 7.5 8 9, ncnn [6, 6] 2 3.333 4 4.667 5.333 3.778 5 8 9
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
# pnnx's Python functions need torch, its program does not.
"$work/venv/bin/pip" install --quiet --no-deps pnnx==20261020
"$work/venv/bin/pip" install --quiet ncnn==1.0.20261020 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - "$work" <<'PY'
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import ncnn
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

WORK = Path(sys.argv[1])
(PNNX,) = (p.locate() for p in importlib.metadata.files("pnnx") if str(p) == "pnnx/pnnx")


def by_both(operator, x, **attributes):
    """What onnxruntime and ncnn make of an image of one channel."""
    x = x.astype(np.float32)[None]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], **attributes)],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *x.shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    (true,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x[None]})
    onnx.save(model, WORK / "net.onnx")
    shape = ",".join(map(str, (1, *x.shape)))
    subprocess.run([PNNX, "net.onnx", f"inputshape=[{shape}]f32"], cwd=WORK, check=True, capture_output=True)
    net = ncnn.Net()
    net.load_param(str(WORK / "net.ncnn.param"))
    net.load_model(str(WORK / "net.ncnn.bin"))
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(x).clone())
    _, theirs = extractor.extract("out0")
    return true[0, 0], np.array(theirs)[0]


def shown(y):
    return f"{list(y.shape)} {' '.join(f'{value:.4g}' for value in y.ravel()[:9])}"


IMAGE = np.arange(1, 37).reshape(6, 6)
found = []
for name, operator, stride, padding in (
    ("MaxPool, stride 2, pads 1 1 1 1", "MaxPool", 2, {"pads": [1, 1, 1, 1]}),
    ("MaxPool, stride 2, pads 1 1 0 0", "MaxPool", 2, {"pads": [1, 1, 0, 0]}),
    ("MaxPool, stride 2, pads 1 1 0 1", "MaxPool", 2, {"pads": [1, 1, 0, 1]}),
    ("AveragePool, stride 1, pads 1 1 1 1", "AveragePool", 1, {"pads": [1, 1, 1, 1]}),
    ("AveragePool, stride 1, SAME_UPPER", "AveragePool", 1, {"auto_pad": "SAME_UPPER"}),
):
    answers = by_both(operator, IMAGE, kernel_shape=[3, 3], strides=[stride] * 2, **padding)
    print(f"{name}: onnxruntime {shown(answers[0])}, ncnn {shown(answers[1])}")
    found.append(answers[0].shape == answers[1].shape and np.allclose(*answers))
sys.exit(found != [True, False, False, True, False])
PY
