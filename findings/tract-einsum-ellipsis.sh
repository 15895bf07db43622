#!/usr/bin/env bash
# tract sums over axes that the "..." of an Einsum stands for.
#
# In ONNX's Einsum, as in NumPy's, "..." stands for any number of axes, which the result keeps. Where it stands for two
# axes or more of one factor and the other factor has none of it, tract keeps the last of them and sums over the rest,
# in silence: the result has too few axes, and with a batch of one the values are right and only an axis is missing. A
# linear layer written as "...c,cd->...d", on a batch of sequences, is of this kind. With one axis, with letters instead
# of the "...", and with a "..." of the same axes in both factors it is right. A search of tract's issues found no
# report of it.
#
# Seen with tract 0.23.9, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (2 x 3 vectors of ones with
# two numbers, or 3 of them, times the 2 x 1 matrix 1 1; the shape of the result and its numbers):
#   ...c,cd->...d, 3 x 2: tract 3 x 1: 2 2 2; onnxruntime 3 x 1: 2 2 2
#   abc,cd->abd, 2 x 3 x 2: tract 2 x 3 x 1: 2 2 2 2 2 2; onnxruntime 2 x 3 x 1: 2 2 2 2 2 2
#   ...c,cd->...d, 2 x 3 x 2: tract 3 x 1: 4 4 4; onnxruntime 2 x 3 x 1: 2 2 2 2 2 2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tract==0.23.9 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - "$work" <<'PY'
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper, numpy_helper

FILE = Path(sys.argv[1], "network.onnx")
WEIGHTS = np.ones((2, 1), np.float32)


def applied(equation, x):
    """What tract and onnxruntime make of x times the weights."""
    graph = helper.make_graph(
        [helper.make_node("Einsum", ["x", "w"], ["y"], equation=equation)],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*x.shape[:-1], 1])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, FILE)
    theirs = tract.onnx().load(str(FILE)).into_model().into_runnable().run([x])[0].to_numpy()
    (true,) = onnxruntime.InferenceSession(FILE).run(None, {"x": x})
    return theirs, true


def told(y):
    return f"{' x '.join(map(str, y.shape))}: {' '.join(f'{value:g}' for value in y.ravel())}"


def equal(a, b):
    return a.shape == b.shape and np.allclose(a, b)


same = True
for equation, shape in (("...c,cd->...d", (3, 2)), ("abc,cd->abd", (2, 3, 2)), ("...c,cd->...d", (2, 3, 2))):
    x = np.ones(shape, np.float32)
    theirs, true = applied(equation, x)
    print(f"{equation}, {' x '.join(map(str, shape))}: tract {told(theirs)}; onnxruntime {told(true)}")
    definition = np.einsum(equation, x, WEIGHTS)
    summed = "." in equation and len(shape) == 3
    same &= equal(true, definition) and equal(theirs, definition.sum(axis=0) if summed else definition)
sys.exit(not same)
PY
