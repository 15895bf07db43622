"""ONNX files: what is read computes what the file says, and what cannot be trusted is refused."""

import copy
import gzip
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from layers import Function, network
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_graphs import BATCHNORM, CONV, NODE, conv, graph, head, read, refused, weights, with_head
from torch import nn
from torch.nn import functional as F

from citrus_lirpa import METHODS, BoundedNet, Box, certify
from citrus_lirpa.bounds import allowed
from citrus_lirpa.bounds.lirpa.importing import onnx_globals
from citrus_lirpa.errors import CheckpointError, InputError, ModelError
from citrus_lirpa.formats.onnx import load_onnx, save_onnx
from citrus_lirpa.models import Normalise, build_model

ROOT = Path(__file__).parents[3]
NETS = ROOT / ".." / "shared" / "data" / "nets"
CASES = {
    "gemm": with_head([NODE("Relu", ["x"], ["r"])], {}, 128),
    "gemm-scaled": graph(
        [NODE("Flatten", ["x"], ["f"]),
         NODE("Gemm", ["f", "w", "b"], ["y"], alpha=0.5, beta=2.0, transB=1)],
        {"w": weights(4, 128), "b": weights(1, 4)},
    ),
    "matmul-add": graph(
        [NODE("Flatten", ["x"], ["f"]), NODE("MatMul", ["f", "w"], ["h"]),
         NODE("Add", ["b", "h"], ["r"]), NODE("Relu", ["r"], ["q"]),
         NODE("MatMul", ["q", "w2"], ["z"]), NODE("Sub", ["z", "b2"], ["y"])],
        {"w": weights(128, 9), "b": weights(9), "w2": weights(9, 4), "b2": weights(1, 4)},
    ),
    "reshape-one": graph(
        [NODE("Reshape", ["x", "s"], ["f"]), NODE("Gemm", ["f", "w"], ["y"])],
        {"s": np.array([1, -1]), "w": weights(128, 4)},
    ),
    "reshape-constant-node": graph(
        [NODE("Constant", [], ["s"], value_ints=[-1, 128]), NODE("Reshape", ["x", "s"], ["f"]),
         NODE("Gemm", ["f", "w"], ["y"])],
        {"w": weights(128, 4)}, shape=("N", 2, 8, 8), out=("N", 4),
    ),
    "conv-strided": with_head([conv(strides=[2, 2], pads=[1, 1, 1, 1])], CONV, 48),
    "conv-uneven": with_head([conv(pads=[0, 1, 2, 1])], CONV, 192),
    "conv-groups": with_head(
        [conv(names=["g"], group=2, dilations=[2, 2])], {"g": weights(4, 1, 3, 3)}, 64
    ),
    "conv-add": with_head(
        [conv(names=["k"]), NODE("Add", ["c", "a"], ["d"]), NODE("Relu", ["d"], ["r"])],
        {"k": CONV["k"], "a": weights(1, 3, 1, 1)}, 108,
    ),
    "batchnorm-9": with_head(
        [conv(), NODE("BatchNormalization", ["c", *"somv"], ["n"], epsilon=1e-3)],
        {**CONV, **BATCHNORM}, 108, opset=9,
    ),
    "batchnorm-15-flat": graph(
        [NODE("Flatten", ["x"], ["f"]), NODE("MatMul", ["f", "w"], ["h"]),
         NODE("BatchNormalization", ["h", *"somv"], ["n"]), NODE("Gemm", ["n", "w2"], ["y"])],
        {"w": weights(128, 3), **BATCHNORM, "w2": weights(3, 4)}, opset=15,
    ),
    "affine": with_head(
        [conv(), NODE("Relu", ["c"], ["r"]), NODE("Mul", ["r", "f"], ["p"]),
         NODE("Sub", ["one", "p"], ["q"]), NODE("Div", ["q", "two"], ["t"]),
         NODE("Add", ["t", "full"], ["u"])],
        {**CONV, "f": weights(3, 1, 1), "one": np.float32(1), "two": np.float32([2]),
         "full": weights(1, 3, 6, 6)}, 108,
    ),
    "affine-flat": graph(
        [NODE("Flatten", ["x"], ["f"]), NODE("Mul", ["f", "a"], ["g"]),
         NODE("Gemm", ["g", "w", "b"], ["h"], transB=1), NODE("Relu", ["h"], ["r"]),
         NODE("Sub", ["a2", "r"], ["q"]), NODE("Gemm", ["q", "w2"], ["z"]),
         NODE("Div", ["z", "two"], ["y"])],
        {"a": weights(128), "w": weights(9, 128), "b": weights(9), "a2": weights(1, 9),
         "w2": weights(9, 4), "two": np.float32(2)},
    ),
    "residual": with_head(
        [conv(pads=[1, 1, 1, 1]), NODE("Relu", ["c"], ["r"]),
         conv("r", "d", ("k2", "kb"), pads=[1, 1, 1, 1]), NODE("Identity", ["r"], ["i"]),
         NODE("Add", ["d", "i"], ["e"]), NODE("Relu", ["e"], ["q"])],
        {**CONV, "k2": weights(3, 3, 3, 3)}, 192,
    ),
    "shared-before-add": with_head(  # the bias must not reach the other branch
        [conv(names=["k"], pads=[1, 1, 1, 1]), NODE("Identity", ["c"], ["i"]),
         NODE("Add", ["i", "a"], ["d"]), NODE("Relu", ["d"], ["r"]),
         NODE("Add", ["r", "c"], ["e"])],
        {"k": CONV["k"], "a": weights(3, 1, 1)}, 192,
    ),
    "pools": with_head(
        [conv(pads=[1, 1, 1, 1]), NODE("AveragePool", ["c"], ["p"], kernel_shape=[2, 2],
                                       strides=[2, 2]), NODE("GlobalAveragePool", ["p"], ["g"])],
        CONV, 3,
    ),
    "dropout-squeeze-unused": graph(
        [NODE("GlobalAveragePool", ["x"], ["g"]), NODE("Squeeze", ["g", "axes"], ["f"]),
         NODE("Dropout", ["f"], ["d", "mask"]), NODE("Sin", ["f"], ["unused"]),
         NODE("Gemm", ["d", "w"], ["y"])],
        {"axes": np.array([2, 3]), "w": weights(2, 4)},
    ),
    "opset-21": with_head([NODE("Relu", ["x"], ["r"])], {}, 128, opset=21),
    "opset-7": with_head(
        [conv(), NODE("BatchNormalization", ["c", *"somv"], ["n"], epsilon=1e-3),
         NODE("Relu", ["n"], ["r"])], {**CONV, **BATCHNORM}, 108, opset=7,
    ),
    "mean": with_head(
        [conv(), NODE("ReduceMean", ["c"], ["m"], axes=[2, 3], keepdims=0)], CONV, 3),
    "mean-twice": with_head(
        [conv(), NODE("ReduceMean", ["c", "last"], ["m"], keepdims=0),
         NODE("ReduceMean", ["m", "last"], ["n"], keepdims=0)],
        {**CONV, "last": np.array([-1])}, 3, opset=18,
    ),
    "squeezed-twice": with_head(
        [conv(), NODE("GlobalAveragePool", ["c"], ["p"]), NODE("Squeeze", ["p", "last"], ["q"]),
         NODE("Squeeze", ["q", "last"], ["s"])], {**CONV, "last": np.array([-1])}, 3,
    ),
    "concatenation": with_head(
        [conv(), conv(target="d", names=("k2", "kb")), NODE("Concat", ["c", "d"], ["e"], axis=1),
         NODE("Relu", ["e"], ["r"])], {**CONV, "k2": weights(3, 2, 3, 3)}, 216,
    ),
    "max-pool": with_head(
        [conv(), NODE("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], strides=[2, 2])], CONV, 27),
    "max-pool-dilated": with_head(
        [conv(), NODE("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], dilations=[2, 2])], CONV, 48),
    "max-pool-ceil": with_head(
        [NODE("MaxPool", ["x"], ["p"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], {}, 32),
    "limits": with_head(
        [conv(), NODE("Clip", ["c", "low", "high"], ["d"]), NODE("Clip", ["d", "", "high"], ["e"]),
         NODE("Clip", ["e"], ["f"])],
        {**CONV, "low": np.float32(-0.3), "high": np.float32(0.2)}, 108,
    ),
    "limits-10": with_head([NODE("Clip", ["x"], ["r"], min=0.2, max=0.6)], {}, 128, opset=10),
    "extremes": with_head(
        [conv(), conv(target="d", names=("k2", "kb")), NODE("Max", ["c", "d"], ["e"]),
         NODE("Min", ["e", "c", "full"], ["f"]), NODE("Max", ["low", "f"], ["g"]),
         NODE("Sub", ["g", "c"], ["h"]), NODE("Neg", ["h"], ["i"]), NODE("Abs", ["i"], ["j"])],
        {**CONV, "k2": weights(3, 2, 3, 3), "full": weights(1, 3, 6, 6), "low": np.float32(-0.1)},
        108,
    ),
    "slopes": with_head(
        [conv(), NODE("PRelu", ["c", "s"], ["d"]), NODE("PRelu", ["d", "t"], ["e"])],
        {**CONV, "s": weights(3, 1, 1), "t": np.float32([0.3])}, 108,
    ),
    "parts": with_head(
        [conv(), NODE("Relu", ["c"], ["r"]), NODE("Slice", ["r", "s", "e", "a", "t"], ["d"]),
         NODE("Gather", ["d", "i"], ["f"], axis=1), NODE("Gather", ["f", "j"], ["g"], axis=-1),
         NODE("ReduceSum", ["g", "a1"], ["h"], keepdims=0)],
        {**CONV, "s": np.array([1, -5]), "e": np.array([2**40, -1]), "a": np.array([2, -1]),
         "t": np.array([2, 1]), "i": np.array([2, 0, 2]), "j": np.array(1), "a1": np.array([-1])},
        3,
    ),
    "padded-by-one": with_head(
        [NODE("Relu", ["x"], ["r"]), NODE("Pad", ["r", "p", "one"], ["z"])],
        {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "one": np.float32(1)}, 200),
    "padded-average": with_head(
        [conv(), NODE("Pad", ["c", "pads"], ["z"]),
         NODE("AveragePool", ["z"], ["p"], kernel_shape=[2, 2], strides=[2, 2])],
        {**CONV, "pads": np.array([0, 0, 0, 1, 0, 0, 2, 1])}, 48,
    ),
    "uneven-average": with_head(
        [conv(), NODE("AveragePool", ["c"], ["p"], kernel_shape=[2, 2], strides=[2, 2],
                      pads=[0, 1, 2, 1], count_include_pad=1)], CONV, 48,
    ),
    "padded-10": with_head(
        [NODE("Pad", ["x"], ["z"], pads=[0, 0, 1, 0, 0, 0, 1, 0]), conv("z")], CONV, 144, opset=10),
    "smooth": with_head(
        [conv(), NODE("Tanh", ["c"], ["t"]), NODE("Sigmoid", ["t"], ["s"]),
         NODE("LeakyRelu", ["s"], ["l"], alpha=0.1), NODE("Softplus", ["l"], ["p"])], CONV, 108,
    ),
    "curves": with_head(
        [conv(), NODE("Elu", ["c"], ["e"], alpha=0.5), NODE("HardSigmoid", ["e"], ["h"], beta=0.4),
         NODE("Sigmoid", ["h"], ["s"]), NODE("Mul", ["s", "h"], ["m"]),
         NODE("Gelu", ["m"], ["g"], approximate="tanh")], CONV, 108, opset=20,
    ),
    "gelu-in-parts": with_head(
        [conv(), NODE("Div", ["c", "root"], ["d"]), NODE("Erf", ["d"], ["e"]),
         NODE("Add", ["e", "one"], ["a"]), NODE("Mul", ["c", "a"], ["m"]),
         NODE("Mul", ["m", "half"], ["g"])],
        {**CONV, "root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}, 108,
    ),
    "transposed": with_head(
        [conv(), NODE("Transpose", ["c"], ["t"], perm=[0, 1, 3, 2]), NODE("Relu", ["t"], ["r"])],
        CONV, 108,
    ),
    "reshaped": graph(
        [NODE("Reshape", ["x", "s"], ["a"]), NODE("Relu", ["a"], ["r"]), *head("r", 128)[0]],
        {"s": np.array([1, 4, 4, 8]), **head("a", 128)[1]},
    ),
    "computed-shape-11": graph(
        [conv(), NODE("Shape", ["c"], ["h"]), NODE("Constant", [], ["zero"], value_int=0),
         NODE("Gather", ["h", "zero"], ["n"], axis=0), NODE("Unsqueeze", ["n"], ["u"], axes=[0]),
         NODE("Constant", [], ["rest"], value_ints=[-1]),
         NODE("Concat", ["u", "rest"], ["s"], axis=0), NODE("Reshape", ["c", "s"], ["f"]),
         NODE("Gemm", ["f", "w", "b"], ["y"])],
        {**CONV, "w": weights(108, 4), "b": weights(4)}, shape=("N", 2, 8, 8), out=("N", 4),
        opset=12,
    ),
    "computed-shape-13": graph(  # as without constant folding, with a product of sizes
        [conv(), NODE("Shape", ["c"], ["h"]), NODE("Constant", [], ["one"], value_int=1),
         NODE("Constant", [], ["rest"], value_ints=[36]), NODE("Gather", ["h", "one"], ["n"]),
         NODE("Mul", ["n", "rest"], ["m"]), NODE("Constant", [], ["first"], value_ints=[-1]),
         NODE("Concat", ["first", "m"], ["s"], axis=0), NODE("Reshape", ["c", "s"], ["f"]),
         NODE("Gemm", ["f", "w", "b"], ["y"])],
        {**CONV, "w": weights(108, 4), "b": weights(4)}, shape=("N", 2, 8, 8), out=("N", 4),
        opset=13,
    ),
}  # fmt: skip


# auto_LiRPA 0.3 needs the batch dimension of 1 that 0.7 warns of.
@pytest.mark.filterwarnings("ignore:Constant operand of node")
@pytest.mark.parametrize("name", CASES)
def test_what_is_read_computes_the_same_and_can_be_bounded(name, tmp_path):
    model = CASES[name]
    onnx.save(model, tmp_path / "net.onnx")
    module, shape = load_onnx(tmp_path / "net.onnx")
    assert shape == (2, 8, 8) and not module.training
    x = torch.rand(5, *shape)
    for tensor in model.graph.node:  # whose meaning changed with opset 14
        if tensor.op_type == "BatchNormalization":
            tensor.attribute.append(helper.make_attribute("momentum", 1.0))
    model.opset_import[0].version = max(
        9, model.opset_import[0].version
    )  # it fails on earlier ones
    run = ReferenceEvaluator(model).run
    wanted = np.concatenate([run(None, {"x": image.numpy()})[0] for image in x.split(1)])
    assert torch.allclose(module(x), torch.from_numpy(wanted), rtol=1e-5, atol=2e-6)
    net = BoundedNet(module, x)
    y = module(x).argmax(1)
    # auto_LiRPA's CROWN fails behind a transposition
    for method in ("ibp", "crown-ibp", "crown") if name != "transposed" else ("ibp",):
        if allowed.refusal(net.graph, method) is None:
            assert (net.margins(Box.around(x, 1e-4), y, method) > -1).all()
    assert certify(net, x, y, 1e-6, method="crown").certified.all()


def test_a_constant_per_channel_survives_bounds_as_patches(tmp_path):
    """auto_LiRPA's CROWN fails on ``x * scale`` in large networks."""
    more, values = head("q", 1568)
    nodes = [conv(pads=[1, 1, 1, 1]), NODE("Relu", ["c"], ["r"]), NODE("Mul", ["r", "f"], ["p"]),
             conv("p", "d", ("k2", "kb2"), strides=[2, 2], pads=[0, 0, 0, 0]),
             NODE("Relu", ["d"], ["q"])]  # fmt: skip
    constants = {**CONV, "f": weights(3, 1, 1), "k2": weights(8, 3, 3, 3), "kb2": weights(8)}
    values["w"] = weights(8 * 23 * 23, 4)
    module = read(graph([*nodes, *more], {**constants, **values}, shape=(1, 2, 48, 48)), tmp_path)
    x = torch.rand(1, 2, 48, 48)
    net = BoundedNet(module, x)
    box, y = Box.around(x, 1e-5), module(x).argmax(1)
    assert net.bound_unchecked(box, y, "crown").margins.isfinite().all()


def test_a_softmax_at_the_end_is_taken_off(tmp_path):
    nodes, constants = head("x", 128)
    plain = read(graph(nodes, constants), tmp_path)
    x = torch.rand(5, 2, 8, 8)
    for kind in ("Softmax", "LogSoftmax"):
        nodes[-1].output[0] = "z"
        module = read(graph([*nodes, NODE(kind, ["z"], ["y"], axis=1)], constants), tmp_path)
        assert torch.equal(module(x), plain(x))
        bad = graph([*nodes, NODE(kind, ["z"], ["y"], axis=0)], constants)
        assert "has axis 0" in refused(bad, tmp_path)


def test_flat_inputs_are_read(tmp_path):
    nodes = [NODE("Sub", ["x", "m"], ["n"]), NODE("Gemm", ["n", "w", "b"], ["y"])]
    constants = {"m": weights(1), "w": weights(9, 4), "b": weights(4)}
    onnx.save(graph(nodes, constants, shape=("N", 9), out=("N", 4)), tmp_path / "flat.onnx")
    module, shape = load_onnx(tmp_path / "flat.onnx")
    x = torch.rand(3, 9)
    wanted = (x.numpy() - constants["m"]) @ constants["w"] + constants["b"]
    assert shape == (9,) and torch.allclose(module(x), torch.from_numpy(wanted), atol=1e-6)
    assert BoundedNet(module, x).input_shape == (9,)


def test_compressed_files_are_read(tmp_path, monkeypatch):
    content = CASES["conv-strided"].SerializeToString()
    path = tmp_path / "net.onnx.gz"
    path.write_bytes(gzip.compress(content))
    x = torch.rand(3, 2, 8, 8)
    assert torch.equal(load_onnx(path)[0](x), read(CASES["conv-strided"], tmp_path)(x))
    path.write_bytes(content)
    with pytest.raises(InputError, match="not an ONNX file"):
        load_onnx(path)
    monkeypatch.setattr("citrus_lirpa.formats.onnx.reading._MAX_BYTES", 2000)
    path.write_bytes(gzip.compress(bytes(2001)))
    with pytest.raises(InputError, match="more than 2000 bytes"):
        load_onnx(path)


# -- weights beside the file ----------------------------------------------------------


def kept_apart(folder: Path, **entries: str) -> Path:
    """A network with its weights in net.onnx.data, and other entries of where they are."""
    path, model = folder / "net.onnx", copy.deepcopy(CASES["conv-strided"])
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="net.onnx.data")
    proto = onnx.load(path, load_external_data=False)
    for key, value in entries.items():
        for entry in proto.graph.initializer[0].external_data:
            entry.value = value if entry.key == key else entry.value
    path.write_bytes(proto.SerializeToString())
    return path


def test_weights_beside_the_file_are_read(tmp_path):
    expected = read(CASES["conv-strided"], tmp_path)
    x = torch.rand(3, 2, 8, 8)
    assert torch.equal(load_onnx(kept_apart(tmp_path))[0](x), expected(x))


@pytest.mark.parametrize("place", ["../net.onnx.data", "{}/net.onnx.data", "link", "", "a/b"])
def test_weights_in_other_folders_are_not_read(place, tmp_path):
    (tmp_path / "sub").mkdir()
    path = kept_apart(tmp_path / "sub", location=place.format(tmp_path / "sub"))
    (tmp_path / "net.onnx.data").write_bytes(bytes(10**4))
    (tmp_path / "sub" / "link").symlink_to(tmp_path / "net.onnx.data")
    with pytest.raises(InputError, match="a file of its own folder only"):
        load_onnx(path)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"location": "other.data"}, "not beside it"),
        ({"offset": "-8"}, "begin or end at '-8'"),
        ({"length": "1e9"}, "begin or end at '1e9'"),
        ({"length": "99999"}, "shorter than"),
        ({"length": str(2**31)}, "larger than"),
    ],
)
def test_weights_that_are_not_there_are_named(entries, words, tmp_path):
    with pytest.raises(InputError, match=words):
        load_onnx(kept_apart(tmp_path, **entries))


# -- normalisation in front -----------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "mean", "std"),
    [
        ([("Sub", [0.5, 0.25]), ("Div", [0.5, 2])], [0.5, 0.25], [0.5, 2]),
        ([("Mul", [2, 4]), ("Add", [-1, 1])], [0.5, -0.25], [0.5, 0.25]),
        ([("Div", [0.5, 2]), ("Sub", [1, 1])], [0.5, 2], [0.5, 2]),
        ([("Sub", [0.5, 0.5])], [0.5, 0.5], [1, 1]),
    ],
)
@pytest.mark.parametrize("as_node", [False, True])
def test_leading_normalisation(steps, mean, std, as_node, tmp_path):
    nodes, constants, name = [], dict(CONV), "x"
    for i, (operator, value) in enumerate(steps):
        array = np.float32(value).reshape(2, 1, 1)
        if as_node:
            tensor = numpy_helper.from_array(array[None])
            nodes.append(NODE("Constant", [], [f"n{i}"], value=tensor))
        else:
            constants[f"n{i}"] = array
        nodes.append(NODE(operator, [name, f"n{i}"], [f"v{i}"]))
        name = f"v{i}"
    module = read(with_head([*nodes, conv(name)], constants, 108), tmp_path)
    assert isinstance(module, nn.Sequential) and isinstance(module[0], Normalise)
    assert module[0].mean.flatten().tolist() == mean and module[0].std.flatten().tolist() == std
    assert not any(isinstance(layer, Normalise) for layer in module[1:])
    assert isinstance(module[1], nn.Conv2d)


def test_no_normalisation_where_it_would_be_none(tmp_path):
    for operator, value in (("Mul", [-1, 1]), ("Sub", [0, 0]), ("Div", [1, 1])):
        constants = {**CONV, "n": np.float32(value).reshape(2, 1, 1)}
        module = read(with_head([NODE(operator, ["x", "n"], ["a"]), conv("a")], constants, 108),
                      tmp_path)  # fmt: skip
        assert not any(isinstance(layer, Normalise) for layer in module)


# -- round trips ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [("mlp", (1, 8, 8), {}), ("convsmall", (3, 14, 14), {}), ("cnn7", (3, 8, 8), {"width": 4})],
)
def test_round_trip(name, shape, options, tmp_path):
    mean, std = [0.4, 0.3, 0.2][: shape[0]], [0.2, 0.3, 0.4][: shape[0]]
    model = build_model(name, shape=shape, classes=7, mean=mean, std=std, **options)
    model(torch.rand(16, *shape))  # moves BatchNorm's statistics
    state = {key: value.clone() for key, value in model.state_dict().items()}
    globals_before, filters = dict(vars(onnx_globals())), list(warnings.filters)
    save_onnx(model, shape, tmp_path / "new" / "net.onnx")
    assert model.training and dict(vars(onnx_globals())) == globals_before
    assert warnings.filters == filters
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    again, found = load_onnx(tmp_path / "new" / "net.onnx")
    x = torch.rand(9, *shape)
    assert found == shape and isinstance(again[0], Normalise)
    assert torch.allclose(again(x), model.eval()(x), rtol=1e-6, atol=1e-6)
    box, y = Box.around(x, 0.01), again(x).argmax(1)
    bounds = [BoundedNet(m, x).margins(box, y, "crown-ibp") for m in (model, again)]
    assert torch.allclose(*bounds, rtol=1e-4, atol=1e-5)


CURVES = [
    *(nn.GELU(), nn.SiLU(), nn.ELU(0.5), nn.Softplus(), nn.Mish(), nn.Hardswish(), nn.SELU()),
    *(nn.CELU(0.7), nn.Softsign(), nn.LogSigmoid()),
    *(Function(torch.exp), Function(torch.square), Function(lambda x: x**3)),
]


@pytest.mark.parametrize("layer", CURVES, ids=repr)
def test_curves_that_are_written_are_read(layer, tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), layer, nn.Linear(5, 3)).eval()
    save_onnx(model, (1, 4, 4), tmp_path / "net.onnx")
    module, shape = load_onnx(tmp_path / "net.onnx")
    x = torch.randn(5, *shape)
    torch.testing.assert_close(module(x), model(x))
    assert len(BoundedNet(module, x).affine_segments()) == 2


def test_log_sigmoid_is_finite_in_the_file(tmp_path):
    """Of a logarithm of a sigmoid, onnxruntime makes minus infinity below -18."""
    onnxruntime = pytest.importorskip("onnxruntime")
    layers = nn.Flatten(), Function(lambda x: 200 * x), nn.LogSigmoid(), nn.LogSigmoid()
    save_onnx(nn.Sequential(*layers).eval(), (1, 1, 2), tmp_path / "net.onnx")
    x = torch.tensor([[[[-1.0, -0.1]]]])
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    (logits,) = session.run(None, {"input": x.numpy()})
    assert logits[0] == pytest.approx([-200.0, -20.0])
    module, _ = load_onnx(tmp_path / "net.onnx")
    torch.testing.assert_close(module(x), torch.from_numpy(logits))
    assert sum(isinstance(part, nn.LogSigmoid) for part in module.modules()) == 2


def test_a_sigmoid_that_is_used_beside_its_logarithm_is_kept(tmp_path):
    layer = Function(lambda x: torch.cat([(gate := x.sigmoid()), gate.log()], 1))
    model = nn.Sequential(nn.Flatten(), layer).eval()
    save_onnx(model, (1, 1, 2), tmp_path / "net.onnx")
    module, shape = load_onnx(tmp_path / "net.onnx")
    x = torch.randn(5, *shape)
    torch.testing.assert_close(module(x), model(x))


FUNCTIONS = {
    "log": lambda x: (x.relu() + 1).log(),
    "power": lambda x: (x.relu() + 1) ** 1.5,
    "reciprocal": lambda x: 2 / (x.relu() + 1).sqrt(),
    "product": lambda x: x[:, :2] * x[:, 1:],
    "quotient": lambda x: x / (x.relu() + 1),
    "gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "split": lambda x: torch.cat(torch.split(x.relu(), [1, 2], 1)[::-1], 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_that_are_written_are_read(name, tmp_path):
    model, x, _ = network(Function(FUNCTIONS[name]))
    save_onnx(model, (1, 6, 6), tmp_path / "net.onnx")
    module, _ = load_onnx(tmp_path / "net.onnx")
    torch.testing.assert_close(module(x), model(x))
    assert len(BoundedNet(module, x).eval().affine_segments()) > 1


def test_a_selu_of_other_factors_is_read(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.SELU(), nn.Linear(5, 3)).eval()
    save_onnx(model, (1, 4, 4), tmp_path / "net.onnx")
    proto = onnx.load(tmp_path / "net.onnx")
    (node,) = (node for node in proto.graph.node if node.op_type == "Selu")
    node.attribute.extend([helper.make_attribute(n, 1.5) for n in ("alpha", "gamma")])
    onnx.save(proto, tmp_path / "net.onnx")
    module, _ = load_onnx(tmp_path / "net.onnx")
    x = torch.randn(5, 1, 4, 4)
    hidden = model[:2](x)
    torch.testing.assert_close(module(x), model[3](1.5 * nn.functional.elu(hidden, 1.5)))


def test_a_softplus_that_jumps_is_not_written(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Softplus(2.0, 3.0), nn.Linear(5, 3))
    with pytest.raises(ModelError, match="'2' is a Softplus with threshold 3"):
        save_onnx(model, (1, 4, 4), tmp_path / "net.onnx")


def test_a_net_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    class Moody(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] * (0.0 if torch.onnx.is_in_onnx_export() else 1.0)

    with pytest.raises(ModelError, match="off by"):
        save_onnx(Moody(), (1, 4, 4), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="cannot be written as ONNX"):
        save_onnx(nn.Linear(3, 3), (1, 4, 4), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="cannot write"):
        save_onnx(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), (1, 4, 4), "/dev/null/net.onnx")


#: What torch's exporter writes wrongly, in silence.
FAULTS = {
    "distance": lambda x: F.pairwise_distance(x[:, :, None], torch.ones(1, 1, 1), p=1),
    "distances": lambda x: torch.cdist(x, torch.eye(5), p=1),
    "floor division": lambda x: x + (8 * x) // 3,
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_torch_exports_wrongly_is_refused(name, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), Function(FAULTS[name])).eval()
    with pytest.raises(ModelError, match="a layer is not understood"):
        save_onnx(model, (1, 4, 4), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="does not compute the model's function"):
        BoundedNet(model, torch.rand(2, 1, 4, 4))


# -- nets of other people -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("citrus_convsmall_1", (1, 28, 28)),
        ("citrus_convsmall_2", (3, 32, 32)),
        ("sabr_convsmall_2", (3, 32, 32)),
        ("cifar10convSmallRELUDiffAI", (3, 32, 32)),
    ],
)
def test_published_nets(name, shape):
    path = NETS / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"no {path.name} in {NETS}")
    module, found = load_onnx(path)
    assert found == shape and isinstance(module[0], Normalise)
    x = torch.rand(2, *shape)
    net = BoundedNet(module, x)
    y = module(x).argmax(1)
    bounds = [net.margins(Box.around(x, 0.002), y, method) for method in METHODS]
    sampled = torch.stack([module(x + 0.002 * (2 * torch.rand_like(x) - 1)) for _ in range(20)])
    margins = sampled.gather(2, y.expand(20, -1)[..., None]) - sampled
    lowest = margins.scatter(2, y.expand(20, -1)[..., None], torch.inf).amin(dim=(0, 2))
    for bound in bounds:
        assert (bound.amin(1) <= lowest + 1e-4).all()
    assert (bounds[3] >= bounds[2] - 1e-5).all()
