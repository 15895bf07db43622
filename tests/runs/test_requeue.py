"""SIGTERM from a scheduler, and the same command again: --requeue of train, eval and sweep."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from command_line import after, run, sets, wait_for
from configurations import SMALL_SWEEP

from citrus_lirpa import data
from citrus_lirpa.runs.folder import CURVES_FILE
from citrus_lirpa.training import checkpoint
from citrus_lirpa.training.trainer import Trainer
from citrus_lirpa.verify import Saved

SETTINGS = ("--preset", "digits", "--quiet", *sets(
    "data.limit=128", "train.batch_size=32", "train.epochs=3", "model.hidden=[8]",
    "loss.attack_steps=2"))  # fmt: skip
EVAL = ("--method", "crown", "--relational", "none", "--limit", 15, "--batch-size", 5, "--quiet")


def state(folder: Path) -> dict:
    return checkpoint.load(folder)[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run("train", *SETTINGS, "--out", folder)[0] == 0
    assert run("eval", folder, *EVAL)[0] == 0
    return folder


def verdicts(folder: Path) -> dict:
    record = json.loads((folder / "eval-crown.json").read_text())
    return {k: record[k] for k in ("verdicts", "uap_accuracy", "certified_accuracy", "shares")}


# -- train ----------------------------------------------------------------------------


def test_train_is_begun_stopped_continued_and_finished_by_one_command(tmp_path, monkeypatch, whole):
    command = ("train", *SETTINGS, "--out", tmp_path / "run", "--requeue")
    for step, at in ((2, 2), (5, 7)):
        with monkeypatch.context() as patch:
            after(patch, Trainer, "_step", step, signal.SIGTERM)
            status, output = run(*command)
        assert status == 0 and "saved; continue with" in output and "Error" not in output
        assert state(tmp_path / "run")["step"] == at
    status, output = run(*command)
    assert status == 0 and "certify it with" in output
    mine, other = (state(folder)["model"] for folder in (tmp_path / "run", whole))
    assert all(torch.equal(mine[key], other[key]) for key in other)
    before = (tmp_path / "run" / checkpoint.FILE_NAME).read_bytes()
    assert run(*command)[0] == 0  # a job that was requeued behind its end
    assert (tmp_path / "run" / checkpoint.FILE_NAME).read_bytes() == before


def test_an_interrupted_training_is_no_success(tmp_path, monkeypatch):
    after(monkeypatch, Trainer, "_step", 2, signal.SIGINT)
    status, output = run("train", *SETTINGS, "--out", tmp_path / "run", "--requeue")
    assert status == 130 and "Error: stopped in epoch 1 of 3, saved" in output
    assert state(tmp_path / "run")["step"] == 2


@pytest.mark.parametrize("options", [["--requeue"], []])
def test_sigterm_before_the_first_step(tmp_path, monkeypatch, options):
    monkeypatch.setattr(data, "load", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    status, output = run("train", *SETTINGS, "--out", tmp_path / "run", *options)
    assert status == (0 if options else 130) and "stopped by a signal" in output
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not (tmp_path / "run").exists()


def test_a_start_that_was_killed_before_its_first_file_is_begun_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".train.lock").write_text("process 1 on nowhere\n")
    (folder / ".config.toml.abcd.tmp").write_text("[tra")
    (folder / ".checkpoint.pt.abcd.tmp").write_bytes(b"half")
    (folder / ".eval-bab.json.abcd.tmp").write_bytes(b"of an evaluation, which may be running")
    assert run("train", *SETTINGS, "--set", "data.limit=32", "--out", folder)[0] == 0
    assert sorted(p.name for p in folder.iterdir()) == [
        ".eval-bab.json.abcd.tmp", checkpoint.FILE_NAME, checkpoint.CONFIG_FILE, CURVES_FILE,
        "metrics.jsonl",
    ]  # fmt: skip


def test_misuse_of_train(tmp_path, whole):
    before = state(whole)
    for args, words in (
        (("train", *SETTINGS, "--requeue"), "--requeue needs --out RUN"),
        (("train", "--resume", whole, "--requeue"), "drop the other options"),
        (("train", *SETTINGS, "--set", "train.lr=1", "--out", whole, "--requeue"),
         "train.lr: 0.001 there, 1.0 here"),
        (("train", *SETTINGS, "--out", tmp_path.parent, "--requeue"), "is not a run folder"),
    ):  # fmt: skip
        status, output = run(*args)
        (line,) = output.splitlines()
        assert status in (1, 2) and line.startswith("Error: ") and words in line, line
    assert state(whole)["step"] == before["step"]


# -- eval -----------------------------------------------------------------------------


def test_eval_is_begun_stopped_continued_and_finished_by_one_command(tmp_path, monkeypatch, whole):
    command = ("eval", whole, *EVAL, "--out", tmp_path, "--requeue")
    for kept in (1, 2):
        with monkeypatch.context() as patch:
            after(patch, Saved, "store", 1, signal.SIGTERM)
            status, output = run(*command)
        assert status == 0 and "Error" not in output
        assert f"{kept} finished batch" in output and "--resume" not in output
    status, output = run(*command)
    assert status == 0 and "UCert" in output and verdicts(tmp_path) == verdicts(whole)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    status, output = run(*command)
    assert status == 0 and output == f"results: {tmp_path / 'eval-crown.json'}, finished before\n"
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    status, output = run(*command, "--eps", 0.01)  # another evaluation
    assert status == 0 and "UCert" in output and "ε = 0.01" in output
    (tmp_path / "eval-crown.json").write_text("{}")
    assert "UCert" in run(*command)[1]


def test_what_is_finished_stays_so_beside_another_evaluations_batches(tmp_path, monkeypatch, whole):
    command = ("eval", whole, *EVAL, "--out", tmp_path, "--requeue")
    assert run(*command)[0] == 0
    with monkeypatch.context() as patch:
        after(patch, Saved, "store", 1, signal.SIGTERM)
        assert run(*command, "--eps", 0.01)[0] == 0
    # until it ends, no results stand there that a job script could take for its own
    assert not (tmp_path / "eval-crown.json").exists()
    kept = tmp_path / "earlier-1" / "eval-crown.json"
    kept.rename(tmp_path / "eval-crown.json")
    status, output = run(*command)
    assert status == 0 and output.endswith("finished before\n")
    assert (tmp_path / "eval-crown.partial").is_dir()


def test_proofs_go_with_finished_batches_of_other_settings(tmp_path, monkeypatch, whole):
    pytest.importorskip("onnx")
    command = ("eval", whole, *EVAL, "--out", tmp_path, "--proofs")
    with monkeypatch.context() as patch:
        after(patch, Saved, "store", 1, signal.SIGTERM)
        assert run(*command)[0] != 0
    made = {file.name for file in (tmp_path / "proofs-crown").iterdir()}
    assert "00000.npz" in made
    assert run(*command, "--eps", 0.01)[0] == 0
    aside = tmp_path / "earlier-1"
    assert {file.name for file in (aside / "proofs-crown").iterdir()} == made
    assert (aside / "eval-crown.partial" / "00000.pt").is_file()


def test_eval_continues_only_its_own(tmp_path, monkeypatch, whole):
    command = ("eval", whole, *EVAL, "--out", tmp_path, "--requeue")
    with monkeypatch.context() as patch:
        after(patch, Saved, "store", 1, signal.SIGTERM)
        run(*command, "--eps", 0.01)
    assert (tmp_path / "eval-crown.partial").is_dir()
    assert run(*command)[0] == 0 and verdicts(tmp_path) == verdicts(whole)


@pytest.mark.parametrize(
    ("number", "options"), [(signal.SIGINT, ["--requeue"]), (signal.SIGTERM, [])]
)
def test_otherwise_a_stopped_evaluation_is_no_success(
    tmp_path, monkeypatch, whole, number, options
):
    after(monkeypatch, Saved, "store", 1, number)
    status, output = run("eval", whole, *EVAL, "--out", tmp_path, *options)
    assert status == 130 and "Error: interrupted; 1 finished batch is kept" in output


def test_an_unfinished_training_is_not_evaluated_for_a_scheduler(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        after(patch, Trainer, "_step", 2, signal.SIGTERM)
        run("train", *SETTINGS, "--out", folder, "--requeue")
    status, output = run("eval", folder, *EVAL, "--requeue")
    assert (status, output) == (
        0, f"the training of {folder} is not finished: nothing is evaluated\n"
    )  # fmt: skip
    assert not (folder / "eval-crown.json").exists()
    status, output = run("eval", folder, *EVAL)
    assert status == 0 and output.startswith(
        f"warning: the training of {folder} is not finished: this is the network so far\n"
    )


# -- sweep ----------------------------------------------------------------------------


def test_sweep(tmp_path):
    file, folder = tmp_path / "group.toml", tmp_path / "out" / "digits-ibp"
    file.write_text(SMALL_SWEEP.format(epochs=200, grid=""))

    def terminate() -> None:
        wait_for(folder / checkpoint.FILE_NAME)
        os.kill(os.getpid(), signal.SIGTERM)

    watch = threading.Thread(target=terminate)
    watch.start()
    status, output = run("sweep", file, "--out", tmp_path / "out", "--requeue")
    watch.join()
    assert status == 0 and "all is saved: repeat the command" in output and "Error" not in output
    saved = state(folder)
    assert saved["step"] > 0 and not saved["finished"]
