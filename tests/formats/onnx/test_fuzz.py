"""ONNX files of other bytes and graphs, and hostile ones: read or refused in one line."""

import contextlib
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fuzzing import explore, explore_bytes, refused, sizes
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from citrus_lirpa.errors import InputError, ModelError
from citrus_lirpa.formats.onnx import load_onnx, save_onnx
from citrus_lirpa.formats.onnx.graph import remove_unused
from citrus_lirpa.training import checkpoint


@pytest.fixture(scope="module")
def network(evaluated, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    save_onnx(checkpoint.load_model(evaluated)[0], (1, 8, 8), path)
    return path


def use_onnx(path: Path) -> None:
    """What is read computes what ONNX's own evaluator says."""
    from onnx.reference import ReferenceEvaluator

    module, shape = load_onnx(path)
    x = torch.rand(1, *shape)
    with np.errstate(all="ignore"), torch.no_grad():
        proto = onnx.load(path)
        remove_unused(proto.graph)  # what stands beside the network need not be right
        (wanted,) = ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: x.numpy()})
        found = module(x).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * (1 + np.abs(wanted).max()))


@sizes(60, 500)
def test_onnx_of_other_bytes(cases, network):
    explore_bytes(cases, [network], use_onnx, 4)


@st.composite
def graph_edits(draw):
    """A change of the protobuf's own fields: what, which one, and how."""
    what = draw(st.sampled_from(["op", "input", "output", "dims", "attribute", "shape", "type",
                                 "drop", "twice", "data", "opset"]))  # fmt: skip
    number = draw(st.sampled_from([0, -1, 1, 2, 3, 2**31, 2**40, 2**62, -(2**62)]))
    ops = ["Relu", "Loop", "If", "ConstantOfShape", "Expand", "Tile", "Pad", "Conv", "MatMul",
           "Gemm", "Reshape", "Softmax", "Evil", "Transpose", "Resize", "Add"]  # fmt: skip
    return what, draw(st.integers(0, 50)), number, draw(st.sampled_from(ops))


def change_graph(proto: onnx.ModelProto, change) -> None:
    what, at, number, op = change
    graph = proto.graph
    node = graph.node[at % len(graph.node)]
    tensor = graph.initializer[at % len(graph.initializer)]
    if what == "op":
        node.op_type = op
    elif what == "input" and node.input:
        node.input[at % len(node.input)] = node.output[0] if number < 0 else "input"
    elif what == "output":
        node.output[0] = "input" if number < 0 else "other"
    elif what == "dims" and tensor.dims:
        tensor.dims[at % len(tensor.dims)] = number
    elif what == "attribute":
        del node.attribute[:]
        name = ["kernel_shape", "pads", "alpha", "group", "transB", "axis", "strides"][at % 7]
        node.attribute.append(helper.make_attribute(name, [number] * (at % 5 + 1)))
    elif what == "shape":
        axes = graph.input[0].type.tensor_type.shape.dim
        axes[at % len(axes)].dim_value = number
    elif what == "type":
        tensor.data_type = at % 24
    elif what == "drop":
        graph.node.remove(node)
    elif what == "twice":
        graph.node.append(node)
    elif what == "data":
        tensor.raw_data = tensor.raw_data[: at * 4]
    elif what == "opset":
        proto.opset_import[0].version = number


@sizes(60, 500)
def test_onnx_of_other_graphs(cases, network, tmp_path):
    raw, path = network.read_bytes(), tmp_path / "n.onnx"

    def check(changed) -> None:
        proto = onnx.load_model_from_string(raw)
        for change in changed:
            try:
                change_graph(proto, change)
            except ValueError:
                return  # not a number of the field's range, or one removed already
        path.write_bytes(proto.SerializeToString())
        refused(lambda: use_onnx(path))

    explore(cases, check, st.lists(graph_edits(), min_size=1, max_size=3))


def graph_with(nodes, constants, shape=(1, 1, 8, 8), outputs=()):
    """A network of one linear layer, with further nodes that its output does not need."""
    linear = [helper.make_node("Flatten", ["x"], ["f"]),
              helper.make_node("Gemm", ["f", "w"], ["y"])]  # fmt: skip
    rng = np.random.default_rng(0)
    constants = {"w": rng.normal(size=(int(np.prod(shape)), 4)).astype(np.float32), **constants}
    return helper.make_model(
        helper.make_graph(
            [*linear, *nodes], "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4)), *outputs],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 13)], ir_version=8,
    )  # fmt: skip


def endless_loop() -> onnx.ModelProto:
    """A loop of 2^60 rounds beside the network."""

    def value(name, kind, shape=()):
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])],
        "body",
        [
            value("i", TensorProto.INT64),
            value("c", TensorProto.BOOL),
            value("v", TensorProto.FLOAT),
        ],
        [value("c2", TensorProto.BOOL), value("v2", TensorProto.FLOAT)],
    )
    loop = helper.make_node("Loop", ["n", "true", "zero"], ["end"], body=body)
    constants = {"n": np.array(2**60), "true": np.array(True), "zero": np.float32(0)}
    return graph_with([loop], constants)


HOSTILE = {
    "a loop without end": endless_loop,
    "a tensor of a terabyte": lambda: graph_with(
        [helper.make_node("ConstantOfShape", ["s"], ["z"])], {"s": np.array([2**38])}),
    "doubled forty times": lambda: graph_with(
        [helper.make_node("Concat", [f"x{i}" if i else "x"] * 2, [f"x{i + 1}"], axis=3)
         for i in range(40)], {}),
    "repeated a billion times": lambda: graph_with(
        [helper.make_node("Tile", ["x", "r"], ["z"])], {"r": np.array([1, 1, 2**15, 2**15])}),
    "strings": lambda: graph_with([helper.make_node("Constant", [], ["z"], value_string="x")], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_onnx_is_refused_at_once(tmp_path, name):
    """Whatever stands beside the network is neither computed nor allocated."""
    path = tmp_path / "n.onnx"
    path.write_bytes(HOSTILE[name]().SerializeToString())

    def check(_case) -> None:
        refused(lambda: load_onnx(path))

    explore(1, check, st.none())


def test_onnx_of_too_many_products_is_refused(tmp_path):
    """Three megabytes that would take the reference evaluator hours."""
    proto = graph_with([], {}, shape=(1, 1, 1024, 1024))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    del proto.graph.node[:], proto.graph.initializer[:]
    kernel = np.zeros((2, 1, 511, 511), np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(kernel, "k"))
    nodes = [helper.make_node("Conv", ["x", "k"], ["c"], pads=[255] * 4),
             helper.make_node("Relu", ["c"], ["r"]),
             helper.make_node("GlobalAveragePool", ["r"], ["g"]),
             helper.make_node("Flatten", ["g"], ["y"])]  # fmt: skip
    proto.graph.node.extend(nodes)
    path = tmp_path / "n.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="multiplications"):
        load_onnx(path)


_opened: list[str] = []
_watching = False


def _note_opened(event: str, arguments) -> None:
    if _watching and event == "open" and isinstance(arguments[0], (str, bytes, Path)):
        _opened.append(str(arguments[0]))


sys.addaudithook(_note_opened)


@pytest.mark.parametrize("place", ["initialiser", "constant", "inner graph"])
@pytest.mark.parametrize("location", ["weights.bin", "../secret", "/etc/hostname"])
def test_nothing_outside_an_onnx_file_is_opened(tmp_path, place, location):
    global _watching
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in (tmp_path / "secret", folder / "weights.bin"):
        file.write_bytes(bytes(1024))
    tensor = numpy_helper.from_array(np.zeros((64, 4), np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "1024")):
        tensor.external_data.add(key=key, value=value)
    proto = graph_with([], {})
    if place == "initialiser":
        proto.graph.initializer[0].CopyFrom(tensor)
    elif place == "constant":
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["z"], value=tensor))
    else:
        inner = helper.make_graph([], "inner", [], [], [tensor])
        proto.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner,
                                                 else_branch=inner))  # fmt: skip
    path = folder / "n.onnx"
    path.write_bytes(proto.SerializeToString())
    _opened.clear()
    _watching = True
    allowed = {str(path)}
    try:
        if location == "weights.bin":  # beside the file
            allowed.add(str(folder / location))
            with contextlib.suppress(ModelError):
                load_onnx(path)
        else:
            with pytest.raises(InputError, match="keeps weights in '.*'; they are read from a"):
                load_onnx(path)
    finally:
        _watching = False
    mine = {name for name in _opened if name.startswith((str(tmp_path), "/etc/host"))}
    assert str(path) in mine <= allowed
