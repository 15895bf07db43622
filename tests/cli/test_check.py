"""Proofs on the command line: written by eval, checked by check."""

import json
import shutil

import numpy as np
import pytest
import torch
from command_line import run, said
from torch import nn

pytest.importorskip("onnx")


def test_eval_writes_proofs_and_check_checks_them(tmp_path, evaluated):
    folder = shutil.copytree(evaluated, tmp_path / "run")
    args = ["eval", folder, "--limit", 20, "--time-limit", 1, "--proofs", "--quiet"]
    status, output = run(*args)
    assert status == 0 and "check them: citrus-lirpa check" in output
    record = json.loads((folder / "eval-bab.json").read_text())
    assert record["proofs"]["groups"] == 4 and record["proofs"]["checker"] is None
    certified = sum(v not in ("wrong", "attacked", "undecided") for v in record["verdicts"])
    assert record["proofs"]["images"] == certified
    assert f"{certified} images, 4 groups" in output
    status, output = run("check", folder)
    assert status == 0 and f"{certified} of {certified} images" in output
    checked = json.loads((folder / "eval-bab.json").read_text())["proofs"]
    assert (checked["checked_images"], checked["checked_groups"]) == (certified, 4)
    assert checked["refused"] == 0 and "float64" in checked["checker"]
    assert run("report", folder)[0] == 0
    words = f"{certified} and 4 hold, 0 refusals, by {checked['checker']}"
    assert words in (folder / "report.html").read_text("utf-8")

    file = folder / "proofs-bab" / "00000.npz"
    with np.load(file) as arrays:
        made = dict(arrays)
    np.savez(file, **{**made, "pixels": made["pixels"] + np.float32(0.01)})
    status, output = run("check", folder)
    assert status == 1 and "its pixels are others" in output
    np.savez(file, **made)
    shutil.copy(file, file.with_name("00001.npz"))
    assert said(*run("check", folder), 1).startswith("Error: 1 refusal in ")
    file.with_name("model.onnx").write_bytes(b"")
    assert "model.onnx cannot be read as an ONNX file: IndexError" in said(*run("check", folder), 1)


def test_check_refuses_what_has_no_proofs(tmp_path):
    assert "holds no evaluation" in said(*run("check", tmp_path), 2)


def test_proofs_go_where_the_record_of_their_evaluation_goes(tmp_path, evaluated):
    folder, first, second = tmp_path, tmp_path / "earlier-1", tmp_path / "earlier-2"
    few = ("--limit", 10, "--method", "ibp", "--relational", "none", "--quiet", "--out", folder)
    assert run("eval", evaluated, *few, "--proofs")[0] == 0
    assert run("eval", evaluated, *few, "--eps", 0.01, "--proofs")[0] == 0
    for place in (folder, first):
        assert run("check", place)[0] == 0
    # the third has no proofs, and none that look like its own
    assert run("eval", evaluated, *few)[0] == 0 and not (folder / "proofs-ibp").exists()
    assert run("check", second)[0] == 0

    shutil.rmtree(first / "proofs-ibp")
    shutil.move(second / "proofs-ibp", first)
    message = said(*run("check", first), 1)
    assert "proofs-ibp is of another evaluation than eval-ibp.json; evaluate again" in message


def test_arithmetic_is_recorded_shown_checked_and_not_mixed(tmp_path, evaluated):
    folder = shutil.copytree(evaluated, tmp_path / "run")
    args = ["eval", folder, "--limit", 20, "--method", "crown", "--relational", "io", "--quiet"]
    status, output = run(*args, "--arithmetic", "float32", "--proofs")
    assert status == 0 and "not clipped, float32 arithmetic" in output
    record = json.loads((folder / "eval-crown.json").read_text())
    assert record["arithmetic"] == "float32"
    with np.load(folder / "proofs-crown" / "00000.npz") as arrays:
        made = dict(arrays)
    said_there = json.loads(str(made["statement"]))
    assert said_there["arithmetic"] == "float32"
    status, output = run("check", folder)
    assert status == 0 and "hold in float32 arithmetic, by citrus_lirpa.checker" in output
    assert run("report", folder, "--method", "crown")[0] == 0
    page = (folder / "report.html").read_text("utf-8")
    assert "float32 arithmetic" in page and "--arithmetic float32" in page
    real = {**made, "statement": np.array(json.dumps({**said_there, "arithmetic": "real"}))}
    np.savez(folder / "proofs-crown" / "00000.npz", **real)
    status, output = run("check", folder, "--method", "crown")
    assert status == 1 and "real arithmetic, the record of" in output

    for more, problem in (
        (["--arithmetic", "float32", "--bounds", "auto-lirpa"], "--bounds auto-lirpa; drop one"),
        (["--arithmetic", "float32", "--import-verdicts", tmp_path], "are of real numbers"),
        (["--arithmetic", "float32", "--relational", "raven"], "use cross or io"),
        (["--arithmetic", "float16"], "Invalid value for '--arithmetic'"),
    ):
        assert problem in said(*run("eval", folder, "--limit", 20, *more), 2)


def test_a_network_that_float32_arithmetic_does_not_take_leaves_nothing(tmp_path):
    code = tmp_path / "net.py"
    code.write_text(
        "from torch import nn\n\n\ndef net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Sigmoid())\n"
    )
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict(), tmp_path / "net.pt")
    args = ["eval", "--model", f"{code}:net", "--weights", tmp_path / "net.pt", "--limit", 10]
    args += ["--dataset", "digits", "--eps", 0.01, "--out", tmp_path / "out"]
    for more in ([], ["--proofs"]):
        line = said(*run(*args, "--arithmetic", "float32", *more), 2)
        assert "Sigmoid" in line and line.endswith("leave out --arithmetic float32")
    assert not (tmp_path / "out").exists()
