"""Files of strangers: configurations, records, checkpoints and data sets that are broken.

Each is refused in one line, or means what it says; nothing hangs, nothing outside is read.
"""

import copy
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from fuzzing import explore, explore_bytes, refused, sizes
from hypothesis import strategies as st
from PIL import Image

from citrus_lirpa import data
from citrus_lirpa.errors import CitrusError, DataError
from citrus_lirpa.reports.compare import read_runs
from citrus_lirpa.reports.compare_tables import format_tables
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
