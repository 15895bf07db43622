"""citrus-lirpa attack: what it prints is what it writes, and one line for every mistake."""

import json

import numpy as np
import pytest
import torch
from command_line import is_png, run, said

from citrus_lirpa import data
from citrus_lirpa.attacks import SgdUap
from citrus_lirpa.training.checkpoint import load_model

FEW = ("--epochs", 2, "--quiet", "--eps", "0.2")


@pytest.fixture
def folder(trained):
    return trained[0]


@pytest.mark.parametrize("options", [[], ["--class-wise", "--clip", "--split", "test"]])
def test_attack_prints_what_it_writes(folder, tmp_path, rendered, options):
    status, output = run("attack", folder, *FEW, *options, "--limit", 300, "--out", tmp_path)
    assert status == 0, output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "uap.json",
        "uap.npz",
        "uap.png",
        "uap.pt",
    ]
    assert is_png(tmp_path / "uap.png")
    record = json.loads((tmp_path / "uap.json").read_text())
    saved = torch.load(tmp_path / "uap.pt", weights_only=True)
    assert set(saved) == {"u", "eps", "clip", "dataset", "fooling_rate"}
    assert saved["u"].shape == (10 if options else 1, 1, 8, 8)
    assert saved["u"].abs().max() <= 0.2 + 1e-6
    for key in ("eps", "clip", "dataset", "fooling_rate"):
        assert saved[key] == record[key]
    assert record["clip"] == ([0.0, 1.0] if options else None)
    crafted = {"split": "test" if options else "train", "images": 300}
    assert crafted.items() <= record["crafted_on"].items()

    model, _, _ = load_model(folder)
    split = data.load("digits", train=False, data_dir=tmp_path)
    x, y = split.pixels(slice(None)), split.labels
    moved = x + (saved["u"][y] if options else saved["u"])
    with torch.no_grad():
        right = model(x).argmax(1) == y
        after = model(moved.clamp(0, 1) if options else moved).argmax(1) == y
    assert record["test_images"] == len(y)
    assert record["accuracy"]["clean"] == pytest.approx(right.float().mean().item())
    assert record["accuracy"]["perturbed"] == pytest.approx(after.float().mean().item())
    rate = (right & ~after).sum().item() / right.sum().item()
    assert rate > 0 and saved["fooling_rate"] == pytest.approx(rate)
    rows = {line.split()[0]: line.split()[1:] for line in output.splitlines()}
    shares = [right.float().mean().item(), after.float().mean().item(), rate]
    assert rows["all"] == [str(len(y)), *(part for s in shares for part in (f"{100 * s:.2f}", "%"))]
    if options:
        assert list(record["classes"]) == [str(k) for k in range(10)]
        for k, share in record["classes"].items():
            assert rows[k][-2] == f"{100 * share:.2f}"
    else:
        assert record["classes"] is None and "0" not in rows


def test_a_targeted_attack_counts_what_is_taken_for_the_target(folder, tmp_path):
    status, output = run("attack", folder, *FEW, "--target", "3", "--out", tmp_path)
    assert status == 0, output
    record = json.loads((tmp_path / "uap.json").read_text())
    u = torch.load(tmp_path / "uap.pt", weights_only=True)["u"]
    model, _, _ = load_model(folder)
    split = data.load("digits", train=False, data_dir=tmp_path)
    x, y = split.pixels(slice(None)), split.labels
    with torch.no_grad():
        others = (model(x).argmax(1) == y) & (y != 3)
        taken = others & (model(x + u).argmax(1) == 3)
    rate = taken.sum().item() / others.sum().item()
    assert (record["target"], record["target_rate"]) == ("3", pytest.approx(rate))
    assert rate > 0.1 and f"{100 * rate:.2f} %" in output and "as 3" in output
    status, _ = run("attack", folder, *FEW, "--out", tmp_path / "any")
    any_class = torch.load(tmp_path / "any" / "uap.pt", weights_only=True)["u"]
    with torch.no_grad():
        assert taken.sum() > (others & (model(x + any_class).argmax(1) == 3)).sum()


@pytest.mark.parametrize("form", ["uap.pt", "uap.npz", "one.npy"])
def test_a_given_perturbation_is_tried_as_it_is(folder, tmp_path, form):
    status, _ = run("attack", folder, *FEW, "--out", tmp_path)
    assert status == 0
    before = json.loads((tmp_path / "uap.json").read_text())
    u = torch.load(tmp_path / "uap.pt", weights_only=True)["u"]
    np.save(tmp_path / "one.npy", u[0].numpy())
    given = ("--perturbation", tmp_path / form, "--out", tmp_path / "again")
    status, output = run("attack", folder, *given, "--quiet")
    assert status == 0, output
    after = json.loads((tmp_path / "again" / "uap.json").read_text())
    assert after["accuracy"] == before["accuracy"] and after["crafted_on"] is None
    assert after["eps"] == pytest.approx(float(u.abs().max()))


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (np.zeros((1, 9, 9)), (), "is (1, 9, 9); expected one of shape (1, 8, 8), or 10"),
        (np.zeros((3, 1, 8, 8)), (), "is (3, 1, 8, 8)"),
        (np.full((1, 8, 8), np.nan), (), "of finite numbers"),
        (np.array(["no", "numbers"]), (), "holds no perturbation"),
        (np.zeros((1, 8, 8)), ("--epochs", 3), "leave out --epochs"),
    ],
)
def test_what_is_no_perturbation_is_refused(folder, tmp_path, content, options, words):
    np.save(tmp_path / "u.npy", content)
    given = ("--perturbation", tmp_path / "u.npy", "--out", tmp_path / "out", *options)
    status, output = run("attack", folder, *given)
    assert status in (1, 2) and words in output and output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_perturbation_that_is_not_there_is_named(folder, tmp_path):
    line = said(*run("attack", folder, "--perturbation", tmp_path / "u.pt"), 2)
    assert line.endswith("u.pt is not a file; expected FILE.npy, FILE.npz or uap.pt")


def test_attack_by_default_writes_into_the_run_and_repeats_itself(folder):
    found = []
    for _ in range(2):
        status, output = run("attack", folder, *FEW)
        assert status == 0 and str(folder / "uap.pt") in output
        found.append(torch.load(folder / "uap.pt", weights_only=True)["u"])
    assert torch.equal(*found)


def test_what_an_attack_of_other_settings_found_is_kept_aside(folder, tmp_path):
    command = ("attack", folder, *FEW, "--limit", 300, "--out", tmp_path)
    for _ in range(2):  # the same twice: nothing to keep
        status, output = run(*command)
        assert status == 0 and "earlier" not in output
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    status, output = run(*command, "--class-wise")
    aside = tmp_path / "earlier-1"
    assert status == 0 and f"earlier results, of other settings, are kept in {aside}" in output
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before


def test_an_attack_looks_where_it_writes_before_it_begins(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(SgdUap, "__call__", lambda *_, **__: pytest.fail("it began"))
    (tmp_path / "file").touch()
    line = said(*run("attack", folder, *FEW, "--out", tmp_path / "file"), 1)
    assert f"cannot write {tmp_path / 'file'}" in line


def test_an_attack_that_breaks_nothing_has_no_picture(folder, tmp_path):
    status, output = run("attack", folder, *FEW[:3], "--eps", "0", "--out", tmp_path)
    assert status == 0 and "no picture" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["uap.json", "uap.npz", "uap.pt"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--limit", "0"], ["limit is 0", "at least 1"]),
        (["--epochs", "0"], ["'--epochs'", "0", "x>=1"]),
        (["--split", "val"], ["'val'", "'test'"]),
        (["--target", "ten"], ["unknown class 'ten'"]),
    ],
)
def test_attack_refuses(folder, tmp_path, args, words):
    line = said(*run("attack", folder, "--out", tmp_path / "out", *args), 2)
    assert all(word in line for word in words)
    assert list(tmp_path.iterdir()) == []
