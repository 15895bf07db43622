"""Files of strangers: configurations, records, checkpoints, ONNX and data sets that are broken.

Each is refused in one line, or means what it says; nothing hangs, nothing outside is read.
"""

import contextlib
import copy
import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import tomli_w
import torch
from command_line import small_run
from fuzzing import explore, refused, sizes
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from citrus_lirpa import data
from citrus_lirpa.errors import CitrusError, DataError, InputError, ModelError
from citrus_lirpa.formats.onnx import load_onnx, save_onnx
from citrus_lirpa.formats.onnx_graph import remove_unused
from citrus_lirpa.reports.compare import read_runs
from citrus_lirpa.reports.rows import format_tables
from citrus_lirpa.runs import sweep
from citrus_lirpa.runs.folder import RunFolder
from citrus_lirpa.runs.tuning import study
from citrus_lirpa.training import checkpoint, config
from citrus_lirpa.training import loop as train
from citrus_lirpa.training import setup as runs
from citrus_lirpa.training.config import RunConfig, resolve
from citrus_lirpa.training.toml import parse_override, parse_toml
from citrus_lirpa.verify import verdicts, vnnlib

PRESETS = Path(config.__file__).parent / "presets"

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([0, -1, 2**31, 2**63, 10**30, -(10**30), 1e300, "8/255", "1/0", "nan", "\ud800",
                     "\x00", "../..", "ibp", "citrus"]),
)  # fmt: skip
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


def edits(most: int = 8):
    """Changes of bytes: (kind, where as a share, value)."""
    kinds = st.sampled_from(["flip", "set", "cut", "insert", "repeat"])
    share = st.floats(0, 1, exclude_max=True)
    return st.lists(st.tuples(kinds, share, st.integers(0, 255)), min_size=1, max_size=most)


def edited(raw: bytes, changes) -> bytes:
    out = bytearray(raw)
    for kind, share, value in changes:
        at = int(share * max(1, len(out)))
        if kind == "cut":
            del out[at : at + value + 1]
        elif kind == "insert":
            out[at:at] = bytes([value]) * (value % 9 + 1)
        elif kind == "repeat":
            out[at:at] = out[at : at + value]
        elif out[at : at + 1]:
            out[at] = value if kind == "set" else out[at] ^ (1 << value % 8)
    return bytes(out)


def explore_bytes(cases: int, files: list[Path], use, most: int = 8) -> None:
    """``use(file)`` refuses, or makes sense of, each of the ``files`` with other bytes."""
    whole = {file: file.read_bytes() for file in files}

    def check(case) -> None:
        file, changed = case
        file.write_bytes(edited(whole[file], changed))
        try:
            refused(lambda: use(file))
        finally:
            file.write_bytes(whole[file])

    explore(cases, check, st.tuples(st.sampled_from(files), edits(most)))


def put(tree, path: list, value) -> None:
    """Set the entry of nested tables and lists that ``path`` (shares) leads to."""
    for depth, share in enumerate(path):
        keys = sorted(tree, key=str) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = keys[int(share * len(keys))]
        last = depth == len(path) - 1 or not isinstance(tree[key], (dict, list))
        if last and value == "delete":
            del tree[key]
        elif last:
            tree[key] = value
        if last:
            return
        tree = tree[key]


paths = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=3)
changes = st.lists(st.tuples(paths, plain | st.just("delete")), min_size=1, max_size=3)


# -- configurations -----------------------------------------------------------------

SWEEP = """preset = "digits"
[set]
"train.epochs" = 2
[grid]
method = ["citrus", "ibp"]
"train.seed" = [0, 1]
"loss.tau_ratio" = [0.3, 0.5]
[eval]
limit = 10
time-limit = 1
"""
STUDY = """preset = "digits"
trials = 3
[set]
"data.held_out" = 50
[space]
"loss.tau_ratio" = { low = 0.2, high = "1/2" }
[search]
limit = 10
[least]
ucert = 0.5
[front]
seeds = [0, 1]
"""


def use(config: RunConfig) -> None:
    """What the commands do with a configuration before they read any data."""
    again = RunConfig.from_toml(config.to_toml())
    assert again == config
    if sum(np.prod(v) for v in config.model.values() if isinstance(v, (tuple, int))) < 1e4:
        checkpoint.make_model(config)


@sizes(60, 500)
def test_configurations_of_other_bytes(cases, tmp_path):
    for preset in PRESETS.glob("*.toml"):
        shutil.copyfile(preset, tmp_path / preset.name)
    for method in ("taps", "ibp"):
        text = resolve(preset="digits", method=method).to_toml()
        (tmp_path / f"{method}.toml").write_text(text)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 2
    explore_bytes(cases, files, lambda file: use(resolve(file=file)))


@sizes(80, 600)
def test_configurations_of_other_values(cases, tmp_path):
    good = parse_toml(resolve(preset="digits").to_toml(), "digits")

    def check(changed) -> None:
        tables = copy.deepcopy(good)
        for path, value in changed:
            put(tables, path, value)
        try:
            text = tomli_w.dumps(tables)
            text.encode()
        except (TypeError, ValueError, AttributeError, RecursionError):
            return  # no TOML: null, a lone surrogate, a key that is none
        refused(lambda: use(RunConfig.from_toml(text)))

    explore(cases, check, changes)


@sizes(60, 500)
def test_overrides(cases):
    keys = st.sampled_from(["train.eps", "train.epochs", "model.hidden", "loss.name", "data.crop",
                            "train.milestones", "loss.tau_ratio", "train.seed", "model.name",
                            "train.threads", "data.limit"]) | st.text(max_size=6)  # fmt: skip
    texts = st.text(max_size=6) | plain.map(lambda v: json.dumps(v, default=str))

    def check(case) -> None:
        key, value = case
        refused(lambda: parse_override(f"{key}={value}"))
        refused(lambda: use(resolve(preset="digits", overrides=[f"{key}={value}"])))

    explore(cases, check, st.tuples(keys, texts))


@sizes(60, 500)
def test_sweeps(cases, tmp_path):
    file = tmp_path / "s.toml"
    file.write_text(SWEEP)
    explore_bytes(cases, [file], lambda file: sweep.expand(sweep.read(file)), 4)


@sizes(60, 500)
def test_studies(cases, tmp_path):
    file = tmp_path / "t.toml"
    file.write_text(STUDY)
    explore_bytes(cases, [file], study.read, 4)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "[a" + ".a" * 100_000 + "]"])
def test_deep_nesting_is_refused(tmp_path, text):
    file = tmp_path / "deep.toml"
    file.write_text(text)
    assert refused(lambda: resolve(file=file)) and refused(lambda: sweep.read(file))
    deep = "[" * 100_000
    (tmp_path / "deep.json").write_text(deep)
    settings = dict(dataset="digits", eps=0.1, clip=None)
    assert refused(lambda: verdicts.undecided_images(tmp_path / "deep.json", **settings))


# -- records ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    return small_run(tmp_path_factory.mktemp("files") / "run")


def fresh(evaluated: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(evaluated, folder)
    return folder


def use_records(folder: Path) -> None:
    refused(lambda: format_tables(read_runs([folder])).encode())
    settings = dict(dataset="digits", eps=0.1, clip=None)
    refused(lambda: verdicts.undecided_images(folder / "eval-ibp.json", **settings))
    refused(lambda: RunFolder(folder).begun_config())


@sizes(30, 500)
def test_records_of_other_bytes(cases, evaluated, tmp_path):
    folder = fresh(evaluated, tmp_path)
    files = [folder / name for name in ("eval-ibp.json", "metrics.jsonl", "config.toml")]
    explore_bytes(cases, files, lambda file: use_records(folder))


@sizes(30, 500)
def test_records_of_other_values(cases, evaluated, tmp_path):
    folder = fresh(evaluated, tmp_path)
    good = json.loads((evaluated / "eval-ibp.json").read_text())

    def check(changed) -> None:
        record = copy.deepcopy(good)
        for path, value in changed:
            put(record, path, value)
        (folder / "eval-ibp.json").write_text(json.dumps(record))
        use_records(folder)

    explore(cases, check, changes)


@sizes(25, 300)
def test_verdicts(cases, evaluated, tmp_path):
    model, spec, _ = checkpoint.load_model(evaluated)
    images = data.load("digits", train=False, data_dir=tmp_path)
    exported = tmp_path / "exported"
    vnnlib.export(model, images, spec, exported, images=range(12), eps=0.1)
    names = sorted(p.name for p in exported.glob("*.vnnlib"))
    rows = [f"{vnnlib.MODEL},{name},unsat,1.0" for name in names]
    files = [exported / vnnlib.RESULTS, exported / vnnlib.EXPORT]
    files[0].write_text("\n".join(rows))

    def use_verdicts(_file) -> None:
        found = verdicts.import_verdicts(exported, model, spec, eps=0.1, clip=None)
        assert set(found) <= {int(name[6:11]) for name in names}
        assert set(found.values()) <= {"certified", "attacked", "undecided"}

    explore_bytes(cases, files, use_verdicts, 4)


# -- checkpoints --------------------------------------------------------------------


def use_checkpoint(path: Path) -> None:
    model, spec, _ = checkpoint.load_model(path)
    assert model(torch.rand(2, *spec.shape)).shape == (2, spec.classes)


ODD = {
    "nan": lambda t: t * float("nan"), "double": lambda t: t.double(), "int": lambda t: t.long(),
    "complex": lambda t: t.to(torch.complex64), "empty": lambda t: t[:0], "flat": torch.flatten,
    "sparse": lambda t: t.to_sparse(), "list": lambda t: t.tolist(), "none": lambda t: None,
    "meta": lambda t: t.to("meta"), "huge": lambda t: t + 1e38, "expanded": lambda t:
    t.reshape(-1)[:1].expand(10**6),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:the loss is nan")
@sizes(40, 300)
def test_checkpoints_of_other_values(cases, evaluated, tmp_path):
    """Written by torch.save as a checkpoint is, with other things in it; resumed too."""
    folder = fresh(evaluated, tmp_path)
    good = torch.load(folder / checkpoint.FILE_NAME, weights_only=True)
    good["finished"] = False
    images = data.load("digits", train=True, data_dir=tmp_path)
    longer = good["config"].replace("epochs = 1", "epochs = 2")
    assert longer != good["config"]

    def check(case) -> None:
        changed, odd, which = case
        state = copy.deepcopy(good) | {"config": longer}
        for path, value in changed:
            put(state, path, value)
        if odd and isinstance(state.get("model"), dict) and state["model"]:
            name = sorted(state["model"], key=str)[which % len(state["model"])]
            if isinstance(state["model"][name], torch.Tensor):
                state["model"][name] = ODD[odd](state["model"][name])
        torch.save(state, folder / checkpoint.FILE_NAME)
        refused(lambda: use_checkpoint(folder))

        def resume() -> None:
            config = RunFolder(folder).begun_config()
            net, loss = runs.build(config, torch.device("cpu"))
            train.fit(net, loss, images, config, folder=folder)

        refused(resume)

    small = st.lists(st.tuples(paths, scalars | st.just("delete")), max_size=2)
    kinds = st.sampled_from([None, *sorted(ODD)])
    explore(cases, check, st.tuples(small, kinds, st.integers(0, 9)))


def test_a_checkpoint_that_unpacks_to_more_than_it_is(evaluated, tmp_path):
    """torch.save compresses nothing; a file that does may hold a thousand times its size."""
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(evaluated / checkpoint.FILE_NAME) as old:
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
            new.writestr("archive/data/99", bytes(2**24))
    with pytest.raises(CitrusError, match="compressed"):
        checkpoint.load(bomb)


# -- ONNX ---------------------------------------------------------------------------


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


# -- data sets ----------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path) -> Path:
    """TinyImageNet's validation set with one image of each class."""
    images = tmp_path / "tiny-imagenet-200" / "val" / "images"
    images.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    lines = []
    for number, wnid in enumerate(data.DATASETS["tinyimagenet"].class_names):
        Image.fromarray(pixels).save(images / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t1\t1\n")
    (images.parent / "val_annotations.txt").write_text("".join(lines))
    return tmp_path


def load_tiny(folder: Path) -> data.Split:
    return data.load("tinyimagenet", train=False, data_dir=folder, download=False)


@sizes(10, 200)
def test_a_broken_image(cases, tiny):
    image = tiny / "tiny-imagenet-200" / "val" / "images" / "val_7.JPEG"
    assert len(load_tiny(tiny)) == 200
    explore_bytes(cases, [image], lambda _: load_tiny(tiny), 5)


def test_a_large_image_is_refused_before_it_is_decoded(tiny):
    image = tiny / "tiny-imagenet-200" / "val" / "images" / "val_9.JPEG"
    Image.new("L", (14_000, 14_000)).save(image, quality=1)
    with pytest.raises(DataError, match="val_9"):
        load_tiny(tiny)


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


@sizes(30, 300)
def test_broken_mnist(cases, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    files = [tmp_path / name for name in data.DATASETS["mnist"].files]
    for file in files:
        images = "images" in file.name
        file.write_bytes(idx(np.zeros((20, 28, 28)) if images else np.arange(20) % 10))

    def use_mnist(file) -> None:
        train = file.name.startswith("train")
        data.load("mnist", train=train, data_dir=tmp_path, download=False)

    explore_bytes(cases, files, use_mnist, 4)
