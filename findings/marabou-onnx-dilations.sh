#!/usr/bin/env bash
# Marabou 2.0.0 reads dilated convolutions and poolings of ONNX files as if they were not dilated.
#
# Its reader takes kernels, strides and pads of Conv and MaxPool, and leaves dilations unread, without a
# word. Where the shapes happen to be the same, as with strides of three below, the query is about another
# network: Marabou's values of the outputs differ from those of ONNX Runtime, which the same object calls
# in evaluateWithoutMarabou. Without dilations both agree.
#
# Seen with maraboupy 2.0.0, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11:
#   Conv, dilations [1, 1]: Marabou and ONNX Runtime agree
#   Conv, dilations [2, 2]: Marabou and ONNX Runtime differ
#   MaxPool, dilations [1, 1]: Marabou and ONNX Runtime agree
#   MaxPool, dilations [2, 2]: Marabou and ONNX Runtime differ
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet maraboupy==2.0.0 onnx==1.23.2 onnxruntime==1.32.0 numpy
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import onnx
from maraboupy import Marabou
from onnx import TensorProto, helper, numpy_helper


def network(kind, dilation):
    """Save a convolution or pooling of a 7 x 7 image, two rows and columns as its result."""
    kernel = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 2, 2)
    kernels = [numpy_helper.from_array(kernel, "kernel")] if kind == "Conv" else []
    node = helper.make_node(
        kind, ["x", *(k.name for k in kernels)], ["y"],
        kernel_shape=[2, 2], strides=[3, 3], dilations=[dilation, dilation],
    )
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, side, side])
        for name, side in (("x", 7), ("y", 2))
    ]
    graph = helper.make_graph([node], "network", ends[:1], ends[1:], kernels)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "network.onnx")
    return Marabou.read_onnx("network.onnx")


x = np.random.default_rng(0).random((1, 1, 7, 7), dtype=np.float32)
quiet, found = Marabou.createOptions(verbosity=0), []
for kind in ("Conv", "MaxPool"):
    for dilation in (1, 2):
        read = network(kind, dilation)
        theirs = np.array(read.evaluateWithMarabou([x], options=quiet)).ravel()
        true = np.array(read.evaluateWithoutMarabou([x])).ravel()
        same = np.allclose(theirs, true, atol=1e-5)
        found.append(same)
        verb = "agree" if same else "differ"
        print(f"{kind}, dilations [{dilation}, {dilation}]: Marabou and ONNX Runtime {verb}")
sys.exit(found != [True, False, True, False])
PY
