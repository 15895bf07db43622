"""Faults while training: kills, signals, full disks, and losses that are no numbers."""

import math
import resource
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from command_line import run, said, signalled
from torch import nn

from citrus_lirpa import data
from citrus_lirpa.errors import NonFiniteLossError
from citrus_lirpa.runs.folder import CONFIG_FILE
from citrus_lirpa.training import checkpoint
from citrus_lirpa.training import loop as train
from citrus_lirpa.training import setup as runs
from citrus_lirpa.training.config import resolve

LAUNCHER = Path(__file__).parents[2] / "cli.py"
STEPS = 50  # of an epoch
SETTINGS = ("--preset", "digits", "--quiet", "--set", "train.epochs=3", "--set",
            "data.limit=800", "--set", "train.batch_size=16")  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder)[1]["model"]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def stopped_by(number: int, folder: Path) -> tuple[int, str]:
    """Start training, send ``number`` in the second epoch; exit status and errors.

    So few steps are warned of.
    """
    command = (LAUNCHER, "train", *SETTINGS, "--out", folder)
    status, said = signalled(command, folder / "metrics.jsonl", number)
    errors = [line for line in said.splitlines() if not line.startswith("warning: ")]
    return status, "\n".join(errors)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run("train", *SETTINGS, "--out", folder)[0] == 0
    return weights(folder)


def test_killed_and_resumed(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    status, errors = stopped_by(signal.SIGKILL, folder)
    assert (status, errors) == (-signal.SIGKILL, "")
    state = checkpoint.load(folder)[1]
    assert state["step"] in (STEPS, 2 * STEPS) and not state["finished"]  # the last epoch's end
    status, output = run("train", "--resume", folder, "--quiet")
    assert status == 0, output
    assert same(weights(folder), uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_and_resumed(tmp_path, uninterrupted, number):
    folder = tmp_path / "run"
    status, errors = stopped_by(number, folder)
    assert status == 130
    (line,) = errors.splitlines()
    assert line.startswith("Error: stopped in epoch ") and "of 3, saved" in line
    state = checkpoint.load(folder)[1]
    assert STEPS <= state["step"] < 3 * STEPS and not state["finished"]
    program, *args = shlex.split(line.partition("continue with: ")[2])
    assert program == "citrus-lirpa"
    status, output = run(*args, "--quiet")
    assert status == 0, output
    assert same(weights(folder), uninterrupted)


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
        checkpoint.FILE_NAME, CONFIG_FILE, "metrics.jsonl"
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
