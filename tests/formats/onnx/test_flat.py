"""Small ONNX graphs of any shapes, as dense maps and elementwise functions."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from citrus_lirpa.errors import ModelError
from citrus_lirpa.formats.onnx.flat import flat_of
from citrus_lirpa.formats.onnx.reading import parse

onnxruntime = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)


def array(name, *values):
    value = np.array(values[0] if len(values) == 1 else values)
    return numpy_helper.from_array(
        value if value.dtype == np.int64 else value.astype(np.float32), name
    )


def normal(name, *shape):
    return array(name, RNG.normal(size=shape))


def whole(name, *values):
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def write(path, inputs, outputs, nodes, constants=(), opset=17):
    """Inputs by name and shape, outputs by name."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


node = helper.make_node

#: name: (inputs, outputs, nodes, constants)
GRAPHS = {
    "no batch": ({"x": [3]}, ["y"], [node("MatMul", ["w", "x"], ["y"])], [normal("w", 2, 3)]),
    "batch that is no batch": (
        {"x": [2, 3]},
        ["y"],
        [
            node("Transpose", ["x"], ["t"], perm=[1, 0]),
            node("Relu", ["t"], ["r"]),
            node("Concat", ["r", "t"], ["y"], axis=1),
        ],
        [],
    ),
    "two inputs, two outputs": (
        {"a": [1, 2], "b": [2]},
        ["s", "p"],
        [
            node("Sub", ["a", "b"], ["s"]),
            node("Relu", ["s"], ["r"]),
            node("Gemm", ["r", "w", "c"], ["p"], alpha=0.5, beta=2.0, transB=1),
        ],
        [normal("w", 3, 2), normal("c", 3)],
    ),
    "product, quotient, sigmoid": (
        {"x": [4]},
        ["y"],
        [
            node("Split", ["x", "sizes"], ["a", "b"], axis=0),
            node("Mul", ["a", "b"], ["p"]),
            node("Sigmoid", ["b"], ["s"]),
            node("Div", ["p", "s"], ["q"]),
            node("Tanh", ["q"], ["t"]),
            node("Mul", ["t", "factor"], ["y"]),
        ],
        [whole("sizes", 2, 2), array("factor", 3.0)],
    ),
    "convolution in one dimension": (
        {"x": [1, 2, 7]},
        ["y"],
        [
            node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1], strides=[2]),
            node("Relu", ["c"], ["r"]),
            node("ReduceSum", ["r", "axes"], ["s"], keepdims=0),
            node("Slice", ["s", "from", "to"], ["y"]),
        ],
        [normal("w", 3, 2, 3), normal("b", 3), whole("axes", 2), whole("from", 0), whole("to", 9)],
    ),
    "batch norm and pooling": (
        {"x": [1, 2, 4, 4]},
        ["y"],
        [
            node("BatchNormalization", ["x", "s", "b", "m", "v"], ["n"]),
            node("Relu", ["n"], ["r"]),
            node("AveragePool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", ["p"], ["y"]),
        ],
        [normal("s", 2), normal("b", 2), normal("m", 2), array("v", [0.5, 2.0])],
    ),
    "pieces": (
        {"x": [2, 3], "z": [3]},
        ["y", "p", "c"],
        [
            node("Abs", ["x"], ["a"]),
            node("LeakyRelu", ["x"], ["l"], alpha=0.2),
            node("PRelu", ["x", "slopes"], ["r"]),
            node("Max", ["a", "l", "z", "half"], ["m"]),
            node("Min", ["m", "r"], ["y"]),
            node("LeakyRelu", ["z"], ["p"], alpha=-0.3),
            node("Clip", ["x", "", "half"], ["c"]),
        ],
        [array("half", 0.5), array("slopes", [0.1, -0.5, 1.5])],
    ),
    "clip by one number": ({"x": [4]}, ["y"], [node("Clip", ["x", "z"], ["y"])], [array("z", 0.0)]),
    "constants that are computed": (
        {"x": [2, 3]},
        ["y"],
        [
            node("Shape", ["x"], ["shape"]),
            node("ConstantOfShape", ["shape"], ["ones"], value=array("v", [1.5])),
            node("Gather", ["x", "order"], ["g"], axis=1),
            node("Add", ["g", "ones"], ["y"]),
        ],
        [whole("order", 2, 0, 1)],
    ),
}
#: Attributes of max pools of (1, 2, 7, 6), or of fewer axes.
POOLS = {
    "plain": {"kernel_shape": [2, 2]},
    "strides and pads": {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 2, 1]},
    "dilations": {"kernel_shape": [2, 3], "dilations": [3, 2]},
    "ceil": {"kernel_shape": [2, 2], "strides": [2, 4], "ceil_mode": 1},
    "ceil with padding": {
        "kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1
    },
    "same upper": {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "same lower": {"kernel_shape": [2, 3], "strides": [2, 1], "auto_pad": "SAME_LOWER"},
    "valid": {"kernel_shape": [4, 4], "auto_pad": "VALID"},
    "one axis": {"kernel_shape": [3], "strides": [2], "pads": [1, 1]},
    "three axes": {"kernel_shape": [2, 1, 2]},
}  # fmt: skip
SIDES = {"one axis": [2, 7], "three axes": [2, 3, 2, 3]}
GRAPHS |= {
    f"max pool, {name}": (
        {"x": [1, *SIDES.get(name, [2, 7, 6])]},
        ["y"],
        [node("MaxPool", ["x"], ["y"], **options)],
        [],
    )
    for name, options in POOLS.items()
}  # fmt: skip


def read(path):
    return flat_of(parse(path), path)


def inputs_of(net):
    return {name: RNG.uniform(-2, 2, size=shape).astype(np.float32)
            for name, shape in net.inputs.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "opset"), [*((name, 17) for name in GRAPHS), ("batch norm and pooling", 11)]
)
def test_the_network_computes_what_onnxruntime_does(tmp_path, name, opset):
    path = write(tmp_path / "net.onnx", *GRAPHS[name], opset=opset)
    net, session = read(path), onnxruntime.InferenceSession(str(path))
    for _ in range(5):
        x = inputs_of(net)
        wanted = np.concatenate([y.ravel() for y in session.run(None, x)])
        found = net(torch.from_numpy(np.concatenate([v.ravel() for v in x.values()]))[None])
        np.testing.assert_allclose(found[0].numpy(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_intervals_contain_sampled_outputs(tmp_path, name):
    net = read(write(tmp_path / "net.onnx", *GRAPHS[name])).double()
    size = sum(int(np.prod(shape)) for shape in net.inputs.values())
    lower = torch.rand(20, size, dtype=torch.float64) * 2 - 1
    upper = lower + torch.rand(20, size, dtype=torch.float64)
    low, high = net.interval(lower, upper)
    for _ in range(50):
        x = lower + (upper - lower) * torch.rand_like(lower).round(decimals=1)
        y = net(x)
        assert ((y >= low - 1e-9) & (y <= high + 1e-9) | y.isnan()).all()


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (({"x": [3]}, ["y"], [node("Softmax", ["x"], ["y"])]), "operator Softmax is not supported"),
        (({"x": ["n", "m"]}, ["y"], [node("Relu", ["x"], ["y"])]), "no float32 tensor of fixed"),
        (({"x": [3]}, ["y"], [node("Div", ["x", "w"], ["y"])], [normal("w", 2)]), "cannot be used"),
        (({"x": [400, 400]}, ["y"], [node("Neg", ["x"], ["y"])]), "too large to be read"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, graph, message):
    with pytest.raises(ModelError, match=message):
        read(write(tmp_path / "net.onnx", *graph))
