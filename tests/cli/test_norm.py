"""``--norm 2`` and ``train.norm``: taken, recorded and shown, or refused in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run

from citrus_lirpa.runs.networks import load_network

SHORT = ("--set", "train.epochs=2", "--set", "train.ramp_length=1", "--quiet")
QUICK = ("--limit", 20, "--method", "crown-ibp", "--time-limit", 1, "--quiet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run in norm 2."""
    path = tmp_path_factory.mktemp("norm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        given = ("--set", "train.norm=2", "--set", "train.eps=1.5", "--method", "sabr")
        status, output = run("train", "--preset", "digits", *given, "--out", "r", *SHORT)
    assert status == 0, output
    return path


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def record(file):
    return json.loads(Path(file).read_text())


@pytest.mark.usefixtures("rendered")
def test_commands_take_the_norm_of_a_run_and_say_so():
    network = load_network(Path("r"))
    assert (network.norm, network.eps) == (2.0, 1.5)
    status, output = run("eval", "r", *QUICK)
    assert status == 0 and "ε = 1.5 (ℓ2), groups of 5" in output
    assert record("r/eval-crown-ibp.json")["norm"] == 2.0
    with np.load("r/uap-crown-ibp.npz") as kept:
        assert float(kept["norm"]) == 2
        assert np.linalg.norm(kept["u"]) <= 1.5 * (1 + 1e-5)
    status, output = run("attack", "r", "--epochs", 2, "--quiet")
    assert status == 0 and "ε = 1.5 (ℓ2), one perturbation" in output
    assert float(torch.load("r/uap.pt", weights_only=True)["u"].norm()) <= 1.5 * (1 + 1e-5)
    assert record("r/uap.json")["norm"] == 2.0
    assert "(ℓ2)" in run("compare", "r")[1]
    assert run("report", "r")[0] == 0
    page = Path("r/report.html").read_text("utf-8")
    assert "1.5 (ℓ2)" in page and "is of another" not in page
    assert "<span>--eps 1.5</span> <span>--norm 2</span>" in page and "norm 2.0" not in page


def test_the_norm_can_be_chosen_and_is_another_evaluation():
    assert run("eval", "r", "--norm", "inf", "--eps", "0.05", *QUICK)[0] == 0
    boxes = record("r/eval-crown-ibp.json")
    assert "norm" not in boxes
    assert run("report", "r")[0] == 0
    page = Path("r/report.html").read_text("utf-8")
    assert "<span>--norm inf</span>" in page  # as the run's own is 2
    status, output = run("eval", "r", "--norm", "2", "--eps", "0.05", *QUICK)
    assert status == 0 and "earlier-" in output
    assert (
        record("r/eval-crown-ibp.json")["uap_accuracy"]["certified"]
        >= boxes["uap_accuracy"]["certified"]
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("eval", "r", "--norm", "3"), "'3' is not one of 'inf', '2'"),
        (("attack", "r", "--norm", "1"), "'1' is not one of"),
        (("eval", "r", "--norm", "inf"), "ε is 1.5; expected a radius in pixels"),
        (("eval", "r", "--eps-map", "m.npy", "--norm", "2"), "--eps-map is for norm inf"),
        (("eval", "r", "--proofs"), "--norm 2 is not for --proofs"),
        (("eval", "r", "--bounds", "auto-lirpa"), "--norm 2 is not for --bounds auto-lirpa"),
        (("eval", "r", "--import-verdicts", "e"), "--import-verdicts are of boxes"),
        (("export", "r", "--limit", 2, "--out", "e"), "the ε of r is of norm 2; give --eps"),
        (("smooth", "r", "--sigma", "0.25"), "the ε of r is of norm 2; give --eps"),
        (("train", "--preset", "digits", "--set", "train.norm=3"), "train.norm is 3.0; expected"),
        (
            ("train", "--preset", "digits", "--set", "train.norm=2", "--method", "taps"),
            "norm 2 is for the methods ibp, sabr and citrus",
        ),
        (
            (
                "train",
                "--preset",
                "digits",
                "--set",
                "train.norm=2",
                "--set",
                "train.eps_map=m.npy",
            ),
            "train.eps_map is for norm inf",
        ),
    ],
)
def test_what_does_not_take_the_norm_is_refused(command, message):
    np.save("m.npy", np.full((8, 8), 0.1))
    status, output = run(*command)
    errors = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert status == 2 and len(errors) == 1 and message in errors[0], output
    assert not Path("e").exists()
