"""vnnlib: a property asks exactly what a certificate answers, and verdicts are read strictly."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from results import made_up_record

from citrus_lirpa import BoundedNet, Box
from citrus_lirpa.bounds.box import PIXELS
from citrus_lirpa.data.datasets import find_spec, load
from citrus_lirpa.errors import InputError
from citrus_lirpa.formats.onnx import load_onnx, save_onnx
from citrus_lirpa.formats.query_reader import read_query
from citrus_lirpa.formats.vnnlib import enclosing_box, property_text
from citrus_lirpa.models import build_model
from citrus_lirpa.verify import vnnlib
from citrus_lirpa.verify.queries.decide import decide
from citrus_lirpa.verify.verdicts import import_verdicts, read_verdicts, undecided_images

SPEC = find_spec("digits")
EPS = 0.05


@pytest.fixture(scope="module")
def digits():
    return load("digits", train=False, data_dir=Path("none"), download=False)


@pytest.fixture(scope="module")
def net(digits):
    """A small network that gets most digits right, trained for a moment."""
    torch.manual_seed(0)
    model = build_model("mlp", shape=SPEC.shape, classes=10, mean=[0.0], std=[1.0], hidden=[16])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    x, y = digits.pixels(slice(0, 200)), digits.labels[:200]
    for _ in range(25):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def exported(net, digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "out"
    return folder, vnnlib.export(
        net, digits, SPEC, folder, images=range(30), eps=EPS, clip=None, timeout=7
    )


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of the export that a test may spoil."""
    for file in exported[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


class Property:
    """A reader of the simple form that verifiers read, written without regard to the writer."""

    def __init__(self, text: str) -> None:
        text = " ".join(re.sub(";.*", "", text).split())
        self.inputs = re.findall(r"\(declare-const X_(\d+) Real\)", text)
        self.outputs = re.findall(r"\(declare-const Y_(\d+) Real\)", text)
        bound = r"\(assert \({} X_(\d+) (-?\d+\.\d+)\)\)"
        self.lower = [np.float64(v) for _, v in re.findall(bound.format(">="), text)]
        self.upper = [np.float64(v) for _, v in re.findall(bound.format("<="), text)]
        (disjunction,) = re.findall(r"\(assert \(or (.*)\)\)$", text)
        self.clauses = re.findall(r"\(and \(>= Y_(\d+) Y_(\d+)\)\)", disjunction)
        rest = re.sub(r"\(and \(>= Y_\d+ Y_\d+\)\)", "", disjunction)
        assert rest.strip() == "" and len(self.lower) == len(self.upper) == len(self.inputs)

    def is_counterexample(self, x: torch.Tensor, logits: torch.Tensor) -> bool:
        values = x.flatten().double().numpy()
        inside = (values >= self.lower).all() and (values <= self.upper).all()
        return bool(inside) and any(logits[int(a)] >= logits[int(b)] for a, b in self.clauses)


# -- what is asked --------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, PIXELS])
@pytest.mark.parametrize("eps", [0.0, 2 / 255, 0.1, 0.3])
def test_the_box_of_a_property(digits, eps, clip):
    x = digits.pixels(slice(0, 4))
    boxes, wanted = enclosing_box(x, eps, clip), Box.around(x, eps, clip)
    for i in range(4):
        read = Property(property_text(Box(boxes.lower[i], boxes.upper[i]), 3, 10))
        assert read.inputs == [str(k) for k in range(64)]
        assert read.outputs == [str(k) for k in range(10)]
        lower, upper = wanted.lower[i].flatten().numpy(), wanted.upper[i].flatten().numpy()
        pixels = x[i].flatten().double().numpy()
        exact = pixels - eps, pixels + eps
        if clip:
            exact = np.clip(exact, *clip)
            assert min(read.lower) >= 0 and max(read.upper) <= 1
        for low, high in ((lower.astype(float), upper.astype(float)), exact):
            assert (read.lower <= low).all() and (read.upper >= high).all()
            assert np.abs(read.lower - low).max() < 1e-7 > np.abs(read.upper - high).max()
        # and rounded to float32, as verifiers do, it still holds the float32 box
        assert (np.float32(read.lower) <= lower).all() and (np.float32(read.upper) >= upper).all()


def test_numbers_are_rounded_outwards_without_exponents():
    low = torch.cat([torch.randn(500) * scale for scale in (1, 1e-3, 1e-9, 1e-30)]).double()
    width = torch.rand(2000).double() * torch.tensor([1, 1e-7, 1e-20, 0]).double().repeat(500)
    text = property_text(Box(low, low + width), 0, 2)
    assert "e" not in re.sub("declare-const|assert|Real", "", text)
    read = Property(text)
    lower, upper = torch.tensor(read.lower), torch.tensor(read.upper)
    assert (lower <= low).all() and (low + width <= upper).all()
    assert (upper - lower <= width + 3e-12).all()


def test_the_output_is_that_of_a_counterexample(exported, digits, net):
    """Sampled points satisfy the property if and only if the network errs on them."""
    folder, record = exported
    other, _ = load_onnx(folder / "model.onnx")
    found = {True: 0, False: 0}
    for image, label in zip(record["images"], record["labels"], strict=True):
        read = Property((folder / f"image_{image:05d}.vnnlib").read_text())
        assert {b for _, b in read.clauses} == {str(label)}
        assert sorted(int(a) for a, _ in read.clauses) == [c for c in range(10) if c != label]
        x = digits.pixels([image])
        points = x + 2 * EPS * (2 * torch.rand(40, 1, 8, 8) - 1) * torch.rand(40, 1, 1, 1)
        inside = ((points - x).abs() <= EPS).flatten(1).all(1)
        for point, logits, within in zip(points, other(points), inside, strict=True):
            wrong = bool(within) and int(logits.argmax()) != label
            assert read.is_counterexample(point, logits) == wrong
            found[wrong] += 1
    step = net(x := digits.pixels(record["images"]).requires_grad_())
    torch.nn.functional.cross_entropy(step, torch.tensor(record["labels"])).backward()
    moved = x.detach() + EPS * x.grad.sign()
    for i, image in enumerate(record["images"]):
        read = Property((folder / f"image_{image:05d}.vnnlib").read_text())
        logits = other(moved[i : i + 1])[0]
        wrong = int(logits.argmax()) != record["labels"][i]
        assert read.is_counterexample(moved[i], logits) == wrong
        found[wrong] += 1
    assert min(found.values()) > 0


def test_what_crown_certifies_has_no_counterexample(exported, digits, net):
    folder, record = exported
    x, y = digits.pixels(record["images"]), torch.tensor(record["labels"])
    certified = (BoundedNet(net, x).margins(Box.around(x, EPS, None), y, "crown") > 1e-4).all(1)
    assert certified.any()
    for i in certified.nonzero().flatten().tolist():
        read = Property((folder / f"image_{record['images'][i]:05d}.vnnlib").read_text())
        corners = x[i] + EPS * torch.randint(2, (50, 1, 8, 8)).mul(2).sub(1) * 0.999
        assert not any(
            read.is_counterexample(p, z) for p, z in zip(corners, net(corners), strict=True)
        )


# -- the folder -----------------------------------------------------------------------


def test_the_folder(exported, digits, net):
    folder, record = exported
    right = (net(digits.pixels(slice(0, 30))).argmax(1) == digits.labels[:30]).tolist()
    kept = [i for i in range(30) if right[i]]
    assert record == json.loads((folder / "export.json").read_text())
    assert record["images"] == kept and record["left_out"] == [i for i in range(30) if not right[i]]
    assert record["left_out"] and record["labels"] == digits.labels[kept].tolist()
    assert (record["dataset"], record["eps"], record["clip"]) == ("digits", EPS, None)
    lines = (folder / "instances.csv").read_text().splitlines()
    assert lines == [f"model.onnx,image_{i:05d}.vnnlib,7" for i in kept]
    names = {"model.onnx", "instances.csv", "export.json", *(f"image_{i:05d}.vnnlib" for i in kept)}
    assert {path.name for path in folder.iterdir()} == names
    x = digits.pixels(slice(0, 9))
    assert torch.allclose(load_onnx(folder / "model.onnx")[0](x), net(x), atol=1e-5)


def test_export_refuses(exported, net, digits, tmp_path):
    def refused(images=(0,), out=tmp_path / "out", **options) -> str:
        with pytest.raises(InputError) as caught:
            vnnlib.export(net, digits, SPEC, out, images=images, **{"eps": EPS, **options})
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert f"{exported[0]} exists" in refused(out=exported[0])
    assert "400 is not one of them" in refused(images=[0, 400])
    assert "one twice" in refused(images=[3, 3]) and "none" in refused(images=[])
    assert "timeout is 0" in refused(timeout=0)
    assert "-1" in refused(eps=-1)


# -- verdicts -------------------------------------------------------------------------


def read(folder: Path, text: str) -> dict[int, str]:
    (folder / "results.csv").write_text(text)
    return read_verdicts(folder / "results.csv", folder)


WORDS = {
    "certified": ["unsat", "UNSAT", "verified", "holds", "safe", "safe-incomplete"],
    "attacked": ["sat", "falsified", "violated", "unsafe", "unsafe-pgd", "Unsafe-BaB"],
    "undecided": ["timeout", "unknown", "error", "error_exit_code_1", "run_instance_timeout", "?"],
}


@pytest.mark.parametrize("verdict", WORDS)
@pytest.mark.parametrize(
    "row",
    ["model.onnx,image_{:05d}.vnnlib,{},12.5", "./b/model.onnx, ./b/image_{:05d}.vnnlib ,{},.007",
     "digits,a\\model.onnx,a\\image_{:05d}.vnnlib,3e-2,{},1", "{},{}"],
    ids=["four", "paths", "six", "two"],
)  # fmt: skip
def test_verdicts_of_every_form(exported, folder, verdict, row):
    images = exported[1]["images"]
    text = "\n".join(row.format(i, w) for i, w in zip(images, WORDS[verdict], strict=False))
    wanted = dict.fromkeys(images[: len(WORDS[verdict])], verdict)
    assert read(folder, text) == wanted
    titles = "image,result" if row == "{},{}" else "onnx,vnnlib,result,time"
    assert read(folder, f"{titles}\n{text}\n\n") == wanted


@pytest.mark.parametrize("row", ["c,model.onnx,{},9,prepare_instance_error_1,-1",
                                 "model.onnx,{},unsat,-1", "c,model.onnx,{},-1,sat,2"])  # fmt: skip
def test_what_was_never_run_is_unknown(exported, folder, row):
    first = exported[1]["images"][0]
    assert read(folder, row.format(f"image_{first:05d}.vnnlib")) == {first: "undecided"}


def test_compressed_properties_and_a_byte_order_mark(exported, folder):
    first = exported[1]["images"][0]
    text = f"\ufeffmodel.onnx.gz,vnnlib/image_{first:05d}.vnnlib.gz,unsat,3.4\n"
    (folder / "results.csv").write_text(text, encoding="utf-8")
    assert read_verdicts(folder / "results.csv", folder) == {first: "certified"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("model.onnx,{},unsat", "3 columns; expected image,result or onnx,"),
        ("unsat", "1 columns"),
        ("model.onnx,{},unsat,soon", "seconds"),
        ("c,model.onnx,{},x,unsat,1", "seconds"),
        ("other.onnx,{},unsat,1", "'other.onnx'"),
        ("model.onnx,image_99999.vnnlib,unsat,1", "'image_99999.vnnlib' is not a property"),
        ("model.onnx,picture.vnnlib,unsat,1", "'picture.vnnlib'"),
        ("model.onnx,model.onnx,unsat,1", "'model.onnx' is not a property"),
        ("model.onnx,{},,1", "result is empty"),
        ("one,unsat", "'one' is not an image"),
        ("-1,unsat", "'-1' is not an image"),
        ("99999,unsat", "'image_99999.vnnlib'"),
    ],
)
def test_malformed_rows(exported, folder, row, words):
    first, second = (f"image_{i:05d}.vnnlib" for i in exported[1]["images"][:2])
    with pytest.raises(InputError) as caught:
        read(folder, f"model.onnx,{second},sat,1\n{row.format(first)}\n")
    assert words in str(caught.value) and "results.csv, line 2" in str(caught.value)


def test_a_file_that_is_no_csv(exported, folder):
    name = f"image_{exported[1]['images'][0]:05d}.vnnlib"
    row = f"model.onnx,{name},unsat,1\n"
    with pytest.raises(InputError, match="line 2: image .* has two rows"):
        read(folder, row + row)
    for content in (b"\xff\xfe\x00", b'a,"b\n'):
        (folder / "results.csv").write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as CSV"):
            read_verdicts(folder / "results.csv", folder)
    with pytest.raises(InputError, match="cannot be read as CSV"):
        read_verdicts(folder / "none.csv", folder)
    for empty in ("", "image,result\n", "\n\n"):
        with pytest.raises(InputError, match="holds no results; expected rows of image,result"):
            read(folder, empty)


def test_import(exported, folder, net):
    _, record = exported
    first, second = record["images"][:2]
    (folder / "results.csv").write_text(f"{first},unsat\n{second},sat\n")
    asked = {"model": net, "spec": SPEC, "eps": EPS, "clip": None}
    assert import_verdicts(folder, **asked) == {first: "certified", second: "attacked"}

    def refused(**changed) -> str:
        with pytest.raises(InputError) as caught:
            import_verdicts(folder, **{**asked, **changed})
        return str(caught.value)

    assert "has eps 0.05, but here it is 0.06" in refused(eps=0.06)
    assert 'has dataset "digits", but here it is "mnist"' in refused(spec=find_spec("mnist"))
    assert "has clip null, but here it is [0.0, 1.0]" in refused(clip=PIXELS)
    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    assert "is not the network" in refused(model=other)
    assert "is not the network" in refused(spec=SPEC.with_crop(7))
    out = record["left_out"][0]
    (folder / f"image_{out:05d}.vnnlib").write_text("")
    (folder / "results.csv").write_text(f"{out},unsat\n")
    assert f"image {out} is not in export.json" in refused()
    save_onnx(other, SPEC.shape, folder / "model.onnx")
    assert "is not the file that was exported" in refused()
    (folder / "export.json").write_text('{"format": "x"}')
    assert "is not a record" in refused()
    (folder / "export.json").write_text("[")
    assert "cannot be read as JSON" in refused()


def test_undecided_images(tmp_path):
    path = tmp_path / "eval.json"
    record = made_up_record(verdicts=["certified", "undecided", "attacked", "wrong", "undecided"])
    asked = {"dataset": "digits", "eps": 0.1, "clip": None}

    def refused(content, **changed) -> str:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(InputError) as caught:
            undecided_images(path, **{**asked, **changed})
        assert str(path) in str(caught.value)
        return str(caught.value)

    path.write_text(json.dumps(record))
    assert undecided_images(path, **asked) == [1, 4]
    assert "has eps 0.1, but here it is 0.2" in refused(record, eps=0.2)
    assert "has clip null" in refused(record, clip=PIXELS)
    assert 'has data "digits"' in refused(record, dataset="mnist")
    assert "of held-out training images" in refused({**record, "held_out": True})
    assert "none of its 1 images" in refused({**record, "verdicts": ["certified"]})
    assert "verdicts.0 is 1; expected a text" in refused({**record, "verdicts": [1]})
    del record["verdicts"]
    assert 'no "verdicts"' in refused(record)
    assert "is missing" in refused({})
    assert "expected a table" in refused("[]") and "is damaged" in refused("{")


# -- the command ----------------------------------------------------------------------


def command(*args) -> tuple[int, str]:
    return run("export", *args)


def test_the_command(exported, digits, tmp_path):
    model = exported[0] / "model.onnx"
    options = (model, "--dataset", "digits", "--eps", "1/20")
    status, output = command(*options, "--limit", 30, "--out", tmp_path / "a", "--timeout", 7)
    assert status == 0, output
    count, left = len(exported[1]["images"]), len(exported[1]["left_out"])
    assert f"{count} properties" in output and f"{left} misclassified" in output
    for file in exported[0].iterdir():
        if file.suffix in (".vnnlib", ".csv"):
            assert (tmp_path / "a" / file.name).read_text() == file.read_text()
    verdicts = ["undecided" if i in (2, 5) else "certified" for i in range(9)]
    record = made_up_record(eps=0.05, clip=[0.0, 1.0], verdicts=verdicts)
    (tmp_path / "eval.json").write_text(json.dumps(record))
    for choice in (("--undecided", tmp_path / "eval.json"), ("--images", "2,5")):
        out = tmp_path / choice[0].strip("-")
        assert command(*options, "--clip", *choice, "--out", out)[0] == 0
        found = json.loads((out / "export.json").read_text())
        assert sorted(found["images"] + found["left_out"]) == [2, 5]
        assert found["clip"] == [0.0, 1.0]


def test_properties_in_both_versions_of_the_standard_have_the_same_answer(exported, tmp_path):
    pytest.importorskip("vnnlib")
    model, answers = exported[0] / "model.onnx", {}
    for version in ("1.0", "2.0"):
        out = tmp_path / version
        options = ("--dataset", "digits", "--eps", "0.05", "--limit", 12, "--out", out)
        assert command(model, *options, "--vnnlib-version", version)[0] == 0
        files = sorted(out.glob("*.vnnlib"))
        assert all(("(vnnlib-version <2.0>)" in f.read_text()) == (version == "2.0") for f in files)
        answers[version] = {
            f.name: decide(read_query(f), {"N": out / "model.onnx"}, timeout=20).verdict
            for f in files
        }
    assert answers["1.0"] == answers["2.0"] and set(answers["1.0"].values()) >= {"unsat"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "say which images"),
        (["--limit", 3, "--uap", "--vnnlib-version", "1.0"], "expected 2.0, which --uap needs"),
        (["--limit", 3, "--vnnlib-version", "3.0"], "'1.0', '2.0'"),
        (["--limit", 3, "--images", "1"], "say which images"),
        (["--images", "1;2"], "0,5,7"),
        (["--limit", 0], "--limit"),
        (["--undecided", "none.json"], "none.json"),
    ],
)
def test_the_command_refuses(exported, tmp_path, args, words):
    model, out = exported[0] / "model.onnx", tmp_path / "out"
    status, output = command(model, "--dataset", "digits", "--eps", 0.1, "--out", out, *args)
    assert status == 2 and words in output and "Traceback" not in output
    assert not out.exists()
