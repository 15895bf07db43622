#!/usr/bin/env bash
# OMLT reads the convolutions of an ONNX file without their biases.
#
# The reader takes the bias of a Conv, checks its shape, and then makes a layer of the weights alone; the layer has no
# place for a bias. A file with a bias that is not zero is read without a word, and a program, an optimum or a proof made
# of it is about another network. The reader refuses what else it does not know: pads, groups, dilations. The bias of a Gemm
# is kept.
#
# Seen with omlt 1.2.2, pyomo 6.10.1, highspy 1.15.1, onnx 1.23.2 and onnxruntime 1.32.0 on Linux x86-64, Python 3.11 (the
# least value over images within [0, 1] of a convolution with ReLU and a linear layer; the network's value there):
#   bias 0: OMLT's least value -2.5, onnxruntime there -2.5
#   bias 2: OMLT's least value -2.5, onnxruntime there -9.5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet omlt==1.2.2 pyomo==6.10.1 highspy==1.15.1 onnx==1.23.2 onnxruntime==1.32.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import pyomo.environ as pyo
from omlt import OmltBlock
from omlt.io.onnx import load_onnx_neural_network
from omlt.neuralnet import ReluBigMFormulation
from onnx import TensorProto, helper

SIZE = 3


def network(bias):
    """A convolution of 2 x 2 with ReLU over an image of 3 x 3, then 1 less the sum of its four values."""
    constants = {
        "w": np.array([[[[1, -1], [0, 0.5]]]]),
        "b": np.array([bias]),
        "shape": np.array([-1, 4]),
        "v": -np.ones((4, 1)),
        "c": np.array([1.0]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], name="conv", kernel_shape=[2, 2], strides=[1, 1], group=1),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Constant", [], ["shape"], name="shape", value=onnx.numpy_helper.from_array(constants.pop("shape"))),
        helper.make_node("Reshape", ["r", "shape"], ["f"], name="reshape"),
        helper.make_node("Gemm", ["f", "v", "c"], ["y"], name="gemm", alpha=1.0, beta=1.0, transB=0),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def least_by_omlt(model):
    """The least value over all images within [0, 1], and the image, by OMLT's program and HiGHS."""
    bounds = {(0, row, column): (0.0, 1.0) for row in range(SIZE) for column in range(SIZE)}
    program = pyo.ConcreteModel()
    program.net = OmltBlock()
    program.net.build_formulation(ReluBigMFormulation(load_onnx_neural_network(model, input_bounds=bounds)))
    (y,) = program.net.outputs.values()
    program.objective = pyo.Objective(expr=y)
    pyo.SolverFactory("appsi_highs").solve(program)
    image = [pyo.value(program.net.inputs[index]) for index in bounds]
    return pyo.value(y), np.array(image, dtype=np.float32).reshape(1, 1, SIZE, SIZE)


found = []
for bias in (0.0, 2.0):
    model = network(bias)
    least, image = least_by_omlt(model)
    (true,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": image})
    print(f"bias {bias:g}: OMLT's least value {least:.4g}, onnxruntime there {true.item():.4g}")
    found.append(abs(least - true.item()) < 1e-4)
sys.exit(found != [True, False])
PY
