"""``--eps-map`` on the command line and in TOML: recorded, found again, or refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run, said, sets

from citrus_lirpa.data.eps_map import read_eps_map
from citrus_lirpa.errors import InputError
from citrus_lirpa.runs.networks import load_network
from citrus_lirpa.training.checkpoint import load

SHORT = ("--quiet", *sets("train.epochs=2", "train.ramp_length=1", "train.lr=0.01",
                          "data.limit=640", "loss.attack_steps=3"))  # fmt: skip
QUICK = ("--limit", 40, "--method", "crown-ibp", "--quiet")


def patch(largest=0.1, file="patch.npy"):
    """A map that leaves all but a patch of 4×4 pixels alone."""
    eps = np.zeros((1, 8, 8))
    eps[:, 2:6, 2:6] = largest
    np.save(file, eps)
    return eps


@pytest.fixture(autouse=True)
def file(here):
    patch()


def made(*args):
    """The output of a command that works."""
    status, output = run(*args)
    assert status == 0, output
    return output


@pytest.fixture
def trained():
    made("train", "--preset", "digits", "--eps-map", "patch.npy", "--out", "r", *SHORT)


def record(file="r/eval-crown-ibp.json"):
    return json.loads(Path(file).read_text())


def test_every_command_takes_the_map_of_a_run(trained, tmp_path):
    train = load(Path("r"))[0].train
    assert (train.eps, train.eps_map) == (0.1, str(tmp_path / "patch.npy"))
    assert len(train.eps_map_sha256) == 64
    assert torch.equal(load_network(Path("r")).radius, torch.from_numpy(patch()))
    status, output = run("eval", "r", "--proofs", *QUICK)
    assert status == 0 and "ε = 0.1 at most (map " in output
    found = record()
    (kept,) = Path("r").glob("eps-map-*.npy")
    assert kept.name == f"eps-map-{found['eps_map'][:8]}.npy"
    assert np.array_equal(np.load(kept), patch())
    assert "refused" not in made("check", "r")
    assert run("attack", "r", "--epochs", 2, "--quiet")[0] == 0
    u = torch.load("r/uap.pt", weights_only=True)["u"]
    assert bool((u[:, :, 0] == 0).all()) and bool((u != 0).any())
    assert record("r/uap.json")["eps_map"] == found["eps_map"]
    assert run("report", "r")[0] == 0
    page = Path("r/report.html").read_text("utf-8")
    assert f"--eps-map r/{kept.name}" in page and "is of another" not in page
    assert f"map {found['eps_map'][:8]}" in made("compare", "r")


def test_one_eps_replaces_the_map_of_a_run(trained):
    assert run("eval", "r", "--eps", "0.1", *QUICK)[0] == 0
    assert "eps_map" not in record() and record()["eps"] == 0.1
    everywhere = record()["uap_accuracy"]["certified"]
    assert run("eval", "r", *QUICK)[0] == 0
    assert record()["uap_accuracy"]["certified"] >= everywhere
    patch(0.3, "wide.npy")
    assert run("eval", "r", "--eps-map", "wide.npy", *QUICK)[0] == 0
    assert record()["eps"] == 0.3


def test_files_of_networks_and_properties_take_a_map(trained):
    assert run("export", "r", "--out", "net.onnx")[0] == 0
    shared = ("net.onnx", "--dataset", "digits", "--eps-map", "patch.npy")
    assert run("eval", *shared, *QUICK)[0] == 0
    assert record("net-eval/eval-crown-ibp.json")["eps_map"]
    assert "a map up to 0.1" in made("export", *shared, "--limit", 3, "--out", "e")
    text = Path("e", "image_00000.vnnlib").read_text()
    zero = [line for line in text.splitlines() if "X_0 " in line and "assert" in line]
    low, high = (float(line.split()[3].rstrip(")")) for line in zero)
    assert low == pytest.approx(high, abs=1e-6)
    Path("e/results.csv").write_text("0,unknown\n")
    assert run("eval", *shared, "--import-verdicts", "e", *QUICK)[0] == 0
    refused = run("eval", "net.onnx", "--dataset", "digits", "--eps", 0.1, "--import-verdicts", "e",
                  *QUICK)  # fmt: skip
    assert "eps_map" in said(*refused, 2)


def test_sweeps_take_a_map_and_know_what_is_done(one_process):
    Path("s.toml").write_text(
        'preset = "digits"\n[set]\n"train.eps_map" = "patch.npy"\n"train.epochs" = 1\n'
        '"train.milestones" = []\n"train.ramp_start" = 1\n"train.ramp_length" = 1\n'
        '[grid]\nmethod = ["ibp"]\n[eval]\nmethod = "ibp"\nrelational = "none"\nlimit = 20\n'
    )
    assert run("sweep", "s.toml", "--out", "swept")[0] == 0
    (file,) = Path("swept").glob("*/eval-ibp.json")
    assert record(file)["eps_map"]
    assert ": finished" in made("sweep", "s.toml", "--out", "swept", "--dry-run")


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 1, 1), (8, 8), (1, 1, 8)])
def test_shapes_that_broadcast(shape):
    np.save("m.npy", np.full(shape, 0.1, np.float32))
    assert read_eps_map(Path("m.npy"), (1, 8, 8)).shape == (1, 8, 8)


def test_a_table_has_an_eps_for_each_feature():
    np.save("m.npy", np.linspace(0, 0.1, 5))
    assert read_eps_map(Path("m.npy"), (1, 1, 5))[0, 0].tolist() == np.linspace(0, 0.1, 5).tolist()
    with pytest.raises(InputError, match=r"shape \(5,\); expected \(6,\): the ε of each feature"):
        read_eps_map(Path("m.npy"), (1, 1, 6))


UNUSABLE = {
    "negative": (np.full((1, 8, 8), -0.1), "holds ε from -0.1 to -0.1; expected finite numbers"),
    "nan": (np.full((1, 8, 8), np.nan), "holds ε from nan to nan"),
    "infinite": (np.full((1, 8, 8), np.inf), "holds ε from inf to inf"),
    "above one": (np.full((1, 8, 8), 8.0), "such as 8/255"),
    "shape": (np.full((3, 3), 0.1), "has shape (3, 3); expected (1, 8, 8), (1, 1, 1) or (8, 8)"),
    "row": (np.full(8, 0.1), "has shape (8,)"),
    "empty": (np.zeros((0, 8)), "holds no numbers"),
    "text": (np.array(["a"]), "holds no numbers"),
    "pickle": (np.array([{}], object), "is not an .npy file of numbers"),
    "archive": (None, "holds no numbers"),
}


def test_a_training_needs_a_pixel_that_moves():
    np.save("m.npy", np.zeros((1, 8, 8)))
    status, output = run("train", "--preset", "digits", "--out", "r", "--eps-map", "m.npy")
    assert "m.npy has ε 0 everywhere" in said(status, output, 2)
    assert not Path("r").exists()


@pytest.mark.parametrize(("values", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_is_no_map_is_refused_in_one_line_and_nothing_written(values, message):
    if values is None:
        np.savez("m.npz", a=1.0)
        Path("m.npz").rename("m.npy")
    else:
        np.save("m.npy", values, allow_pickle=True)
    for command in (
        ("train", "--preset", "digits", "--out", "r", "--eps-map", "m.npy"),
        ("train", "--preset", "digits", "--out", "r", "--set", "train.eps_map=m.npy"),
        ("eval", "zoo:mnist-0.1-convsmall", "--eps-map", "m.npy"),
        ("attack", "zoo:mnist-0.1-convsmall", "--eps-map", "m.npy"),
    ):
        expected = message.split(";")[0] if "zoo" in command[1] else message
        refusal = said(*run(*command), 2)
        assert expected in refusal and "\n" not in refusal.strip().splitlines()[-1]
    assert not Path("r").exists() and not Path("mnist-0.1-convsmall-eval").exists()


def test_two_radii_at_once_are_refused(trained):
    both = said(*run("eval", "r", "--eps", 0.1, "--eps-map", "patch.npy"), 2)
    assert "give --eps or --eps-map" in both
    clash = ("--eps-map", "patch.npy", "--set", "train.eps=0.2", "--out", "q")
    assert "the largest ε of patch.npy is 0.1" in said(
        *run("train", "--preset", "digits", *clash), 2
    )
    assert "cannot be read" in said(*run("eval", "r", "--eps-map", "nowhere.npy"), 2)
    patch(0.2)
    assert "patch.npy has changed since" in said(*run("eval", "r"), 2)
