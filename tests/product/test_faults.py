"""Faults while training: kills, signals, full disks, and losses that are no numbers."""

import json
import math
import resource
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from command_line import after, run, said
from processes import Forked, program
from torch import nn

from citrus_lirpa import data
from citrus_lirpa.errors import NonFiniteLossError
from citrus_lirpa.training import checkpoint
from citrus_lirpa.training import loop as train
from citrus_lirpa.training import setup as runs
from citrus_lirpa.training.config import resolve
from citrus_lirpa.training.trainer import Trainer
from citrus_lirpa.verify import Saved

STEPS = 50  # of an epoch
SETTINGS = ("--preset", "digits", "--quiet", "--set", "train.epochs=3", "--set",
            "data.limit=800", "--set", "train.batch_size=16")  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder)[1]["model"]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run("train", *SETTINGS, "--out", folder)[0] == 0
    return weights(folder)


def killed(tmp_path: Path, owner: type, method: str, call: int, *args) -> None:
    """A command in a process that is killed after a call of a method."""

    def work() -> None:
        after(pytest.MonkeyPatch(), owner, method, call, signal.SIGKILL)
        program(*args)

    errors = tmp_path / "errors"
    assert Forked(work, output=tmp_path / "output", errors=errors).wait() == -signal.SIGKILL
    assert not unexpected(errors.read_text())


def test_a_training_is_killed_and_resumed(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    killed(tmp_path, Trainer, "_step", 75, "train", *SETTINGS, "--out", folder)
    state = checkpoint.load(folder)[1]
    assert not state["finished"] and state["step"] == STEPS  # the end of the last epoch
    status, output = run("train", "--resume", folder, "--quiet")
    assert status == 0, output
    assert same(weights(folder), uninterrupted)


def test_an_evaluation_is_killed_and_resumed(tmp_path, evaluated):
    """It comes to the record of one that nothing disturbed, and leaves nothing behind."""
    batches = ("eval", evaluated, "--method", "crown", "--limit", 20, "--batch-size", 5, "--quiet")
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    killed(tmp_path, Saved, "store", 2, *batches, "--out", folder)
    assert len(list((folder / "eval-crown.partial").glob("*.pt"))) == 2
    for out, more in ((folder, ["--resume"]), (whole, [])):
        status, output = run(*batches, "--out", out, *more)
        assert status == 0, output
    found, expected = (json.loads((out / "eval-crown.json").read_text()) for out in (folder, whole))
    for record in (found, expected):
        del record["seconds"], record["image_seconds"], record["groups"]["seconds"]
    assert found == expected
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in whole.iterdir())


def unexpected(errors: str) -> list[str]:
    """Lines that are no warnings: so few steps are warned of."""
    return [line for line in errors.splitlines() if not line.startswith("warning: ")]


def resumption(errors: str) -> list[str]:
    """The command that continues, from the one line of errors."""
    (line,) = unexpected(errors)
    assert line.startswith("Error: stopped in epoch 2 of 3, saved")
    program, *args = shlex.split(line.partition("continue with: ")[2])
    assert program == "citrus-lirpa"
    return args


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal_and_resumed(tmp_path, uninterrupted, monkeypatch, number):
    with monkeypatch.context() as patch:
        after(patch, Trainer, "_step", 75, number)
        status, errors = run("train", *SETTINGS, "--out", tmp_path / "run")
    assert status == 130 and checkpoint.load(tmp_path / "run")[1]["step"] == 75
    lines = [line for line in errors.splitlines() if line.startswith("Error: ")]
    status, output = run(*resumption("\n".join(lines)), "--quiet")
    assert status == 0, output
    assert same(weights(tmp_path / "run"), uninterrupted)


# -- disks --------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 320 KiB: room for one checkpoint of the demo, not for two."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=320k", "tmpfs", tmp_path]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a small file system: {error}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_full_disk_leaves_the_last_checkpoint(small_disk):
    folder = small_disk / "run"
    out = ("--preset", "digits", "--quiet", "--set", "train.epochs=3", "--set",
           "loss.attack_steps=1", "--out", folder)  # fmt: skip
    line = refusal("train", *out)
    assert line.startswith(f"Error: cannot write {folder / checkpoint.FILE_NAME}: ")
    assert line.endswith("the earlier file is kept")
    state = checkpoint.load(folder)[1]
    assert state["step"] == 1397 // 64 and len(state["history"]) == 1
    assert sorted(p.name for p in folder.iterdir()) == [
        checkpoint.FILE_NAME, checkpoint.CONFIG_FILE, "metrics.jsonl"
    ]  # fmt: skip


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "x", tmp_path / "file" / "x" / "y", "/dev/null/x"):
        assert str(path) in refusal("train", *SETTINGS, "--out", path)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def read_only(tmp_path):
    """Makes a folder read-only, for root too."""
    mounted = []

    def protect(folder: Path) -> None:
        commands = (["mount", "--bind", folder, folder], ["mount", "-o", "remount,ro,bind", folder])
        for command in commands:
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"cannot mount a folder read-only: {error}")
            if folder not in mounted:
                mounted.append(folder)

    yield protect
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


TINY = ("--preset", "digits", "--quiet", "--set", "data.limit=64", "--set",
        "train.batch_size=32", "--set", "train.epochs=2", "--set", "model.hidden=[8]")  # fmt: skip
EVALUATION = ("--method", "ibp", "--relational", "none", "--limit", "20", "--batch-size", "5")


def refusal(*args) -> str:
    """The one line that a command says before it ends with 1."""
    return said(*run(*args), 1)


def test_read_only_folder(tmp_path, read_only):
    folder = tmp_path / "run"
    assert run("train", *TINY, "--out", folder)[0] == 0
    before = {path: path.read_bytes() for path in folder.iterdir()}
    read_only(folder)
    for command in (
        ("train", "--resume", folder),
        ("train", *TINY, "--out", folder / "new"),
        ("train", *TINY, "--out", folder, "--requeue"),
        ("eval", folder, *EVALUATION),
        ("attack", folder, "--limit", "10", "--epochs", "1"),
    ):
        line = refusal(*command)
        assert "Read-only file system" in line and str(folder) in line
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    status, output = run("eval", folder, *EVALUATION, "--out", tmp_path / "elsewhere")
    assert status == 0, output


def test_evaluation_on_a_full_disk_goes_on_where_it_stopped(tmp_path):
    folder = tmp_path / "run"
    assert run("train", *TINY, "--out", folder)[0] == 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    try:
        line = refusal("eval", folder, *EVALUATION)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    partial = folder / "eval-ibp.partial"
    assert line.startswith(f"Error: cannot write {partial / '00000.pt'}: ")
    assert [path.name for path in partial.iterdir()] == ["settings.json"]
    assert run("eval", folder, *EVALUATION, "--resume")[0] == 0 and not partial.exists()


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_damaged_checkpoint_is_said_in_one_line(tmp_path, how):
    folder = tmp_path / "run"
    assert run("train", *TINY, "--out", folder)[0] == 0
    file = folder / checkpoint.FILE_NAME
    raw = bytearray(file.read_bytes())
    if how == "flipped":
        raw[len(raw) // 2] ^= 4
    file.write_bytes(raw[: len(raw) // 2] if how == "cut" else raw)
    damaged = file.read_bytes()
    for command in (
        ("train", "--resume", folder),
        ("train", *TINY, "--out", folder, "--requeue"),
        ("train", *TINY, "--init-from", folder, "--out", tmp_path / "new"),
        ("eval", folder, *EVALUATION),
        ("attack", folder),
    ):
        assert refusal(*command).startswith(f"Error: {file} is damaged or no checkpoint: ")
    assert file.read_bytes() == damaged


# -- losses that are no numbers -----------------------------------------------------


class Breaks(nn.Module):
    """A loss whose value or gradient is not finite from the sixth call on."""

    def __init__(self, inner: nn.Module, how: str):
        super().__init__()
        self.inner, self.how, self.calls = inner, how, 0

    def forward(self, net, x, y, eps):
        terms = self.inner(net, x, y, eps)
        self.calls += 1
        if self.calls < 6:
            return terms
        weight = net.parameters()[0]
        worse = {
            "loss became nan": math.nan,
            "loss became inf": math.inf,
            "gradient became inf": (weight - weight.detach()).sum().sqrt(),  # 0, slope infinite
        }[self.how]
        return type(terms)(terms.total + worse, terms.logits, terms.box, terms.margins)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("how", ["loss became nan", "loss became inf", "gradient became inf"])
def test_not_finite(tmp_path, how, kept):
    config = resolve(
        preset="digits",
        overrides=["data.limit=64", "train.batch_size=16", "train.epochs=3", "loss.attack_steps=1"],
    )
    net, loss = runs.build(config, torch.device("cpu"))
    digits = data.load("digits", train=True, data_dir=tmp_path)
    with pytest.raises(NonFiniteLossError) as caught:
        train.fit(net, Breaks(loss, how), digits, config, folder=tmp_path if kept else None)
    message = str(caught.value)
    assert how in message and "step 5 (epoch 2)" in message and "\n" not in message
    last = str(tmp_path / checkpoint.FILE_NAME) if kept else "no checkpoint was saved"
    assert last in message
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())
    if kept:  # the checkpoint of the first epoch, of four steps
        assert checkpoint.load(tmp_path)[1]["step"] == 4
        model, *_ = checkpoint.load_model(tmp_path)
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
