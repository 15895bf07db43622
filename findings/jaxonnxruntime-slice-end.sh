#!/usr/bin/env bash
# jaxonnxruntime drops the last column of x[:, 1:]: it cuts the "until the end" of a Slice to 32 bits.
#
# ONNX has no open end. torch.onnx and others write the largest int64, 9223372036854775807, and the standard recommends
# INT_MAX for it. Without jax_enable_x64, which is off by default, jax keeps the lower 32 bits of the number, and these
# are -1: all but the last. 2147483648 becomes the smallest int32, and nothing is left. A path that reads a part of its
# input, or the halves of a gated layer, goes on with other numbers where shapes allow it, as before a mean. The largest
# int32 is right, and so is everything once jax_enable_x64 is on.
#
# Seen with jaxonnxruntime 0.3.0, jax 0.10.2, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11
# (of 0 1 2 3, from the second on):
#   end 2147483647: jaxonnxruntime 1 2 3, onnxruntime 1 2 3
#   end 2147483648: jaxonnxruntime nothing, onnxruntime 1 2 3
#   end 9223372036854775807: jaxonnxruntime 1 2, onnxruntime 1 2 3
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jaxonnxruntime==0.3.0 absl-py jax==0.10.2 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from jaxonnxruntime import backend
from onnx import TensorProto, helper, numpy_helper

X = np.arange(4, dtype=np.float32)[None]


def sliced(end):
    """What jaxonnxruntime and onnxruntime make of X[:, 1:end]."""
    numbers = {"starts": 1, "ends": end, "axes": 1}
    graph = helper.make_graph(
        [helper.make_node("Slice", ["x", *numbers], ["y"])],
        "slice",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.array([number], dtype=np.int64), name) for name, number in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    (ours,) = backend.Backend.prepare(model).run([X])
    (true,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})
    return [" ".join(f"{value:g}" for value in np.asarray(y).flat) or "nothing" for y in (ours, true)]


found = []
for end in (2**31 - 1, 2**31, 2**63 - 1):
    theirs, true = sliced(end)
    print(f"end {end}: jaxonnxruntime {theirs}, onnxruntime {true}")
    found.append((theirs, true))
sys.exit(found != [("1 2 3", "1 2 3"), ("nothing", "1 2 3"), ("1 2", "1 2 3")])
PY
