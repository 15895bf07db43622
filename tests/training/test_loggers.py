"""loggers: the records arrive, and nothing else does."""

import importlib
import json
import os
import sys

import pytest
from command_line import run, small_run
from results import RECORDS

from citrus_lirpa.errors import DependencyError, InputError
from citrus_lirpa.training import config, loggers

SECRET = "not-for-other-eyes-5417"


@pytest.fixture
def settings():
    return config.resolve(preset="digits", overrides=["train.epochs=2"])


@pytest.fixture
def offline(monkeypatch):
    """Weights & Biases without a network, beside a secret in the environment."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 20 + SECRET.replace("-", "")[:20])
    monkeypatch.setenv("SOME_TOKEN", SECRET)
    return pytest.importorskip("wandb", reason="Weights & Biases is not installed")


def test_tensorboard(tmp_path, settings):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with loggers.opened(["tensorboard", "tensorboard"], tmp_path, settings) as (log,):
        for record in RECORDS:
            log.log(record)
        log.conclude({"eval-bab/ucert": 0.75})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = set(events.Tags()["scalars"])
    assert found == {*RECORDS[0], "eval-bab/ucert"} - {"epoch", "step"}
    assert [e.value for e in events.Scalars("eval-bab/ucert")] == [0.75]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 2.25), (2, 1.0625)]
    assert [(e.step, e.value) for e in events.Scalars("certified")] == [(2, 0.5)]


def test_weights_and_biases_gets_the_records_and_nothing_of_the_machine(
    tmp_path, settings, offline, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["citrus-lirpa", "--token", SECRET])
    with loggers.opened(["wandb"], tmp_path / "run", settings) as (log,):
        for record in RECORDS:
            log.log(record)
    with loggers.opened(["wandb"], tmp_path / "run", settings) as (again,):  # an evaluation
        again.conclude({"eval-bab/ucert": 0.75})
    assert again.run.id == log.run.id == (tmp_path / "run" / "wandb" / "run-id").read_text()
    offline.teardown()  # its process writes on for a moment
    written = [file for file in (tmp_path / "run" / "wandb").rglob("*") if file.is_file()]
    history = b"".join(file.read_bytes() for file in written if file.suffix == ".wandb")
    words = (b"certified", b"1.0625", b"tau_ratio", b"digits", b"ucert")
    assert all(word in history for word in words)
    for file in written:
        content = file.read_bytes()
        for private in (SECRET, os.environ["WANDB_API_KEY"], os.path.expanduser("~/")):
            assert private.encode() not in content, file


def test_a_run_reports_to_both(tmp_path, offline):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    folder = tmp_path / "run"
    words = ["train", "--preset", "digits", "--out", folder, "--quiet"]
    words += ["--set", "train.epochs=1", "--log", "tensorboard", "--log", "wandb"]
    status, output = run(*words)
    assert status == 0, output
    assert list((folder / "tensorboard").glob("events.*"))
    assert list((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def test_an_evaluation_reports_its_figures(tmp_path, monkeypatch):
    seen: list = []

    class Recorder:
        def __init__(self, folder, config):
            seen.append((folder, config.train.epochs))

        def log(self, record):
            seen.append(record["epoch"])

        def conclude(self, figures):
            seen.append(figures)

        def close(self):
            seen.append("closed")

    monkeypatch.setitem(loggers.LOGGERS, "tensorboard", Recorder)
    folder = small_run(tmp_path / "run")
    options = ("--method", "ibp", "--relational", "none", "--limit", 10, "--log", "tensorboard")
    status, output = run("eval", folder, *options)
    assert status == 0, output
    record = json.loads((folder / "eval-ibp.json").read_text())
    assert seen == [
        (folder, 1),
        {
            "eval-ibp/standard_accuracy": record["standard_accuracy"],
            "eval-ibp/certified_accuracy": record["certified_accuracy"],
            "eval-ibp/ucert": record["uap_accuracy"]["certified"],
            "eval-ibp/uap_accuracy": record["uap_accuracy"]["attacked"],
        },
        "closed",
    ]


@pytest.mark.parametrize(
    ("name", "module", "words"),
    [
        ("tensorboard", "torch.utils.tensorboard", "torch.utils.tensorboard cannot be imported"),
        ("wandb", "wandb", "wandb cannot be imported"),
    ],
)
def test_what_is_not_installed(tmp_path, settings, monkeypatch, name, module, words):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DependencyError, match=rf"{words}.*citrus-lirpa\[{name}\]"):
        with loggers.opened([name], tmp_path, settings):
            raise AssertionError("opened all the same")
    assert list(tmp_path.iterdir()) == []


def test_weights_and_biases_that_cannot_start(tmp_path, settings, offline, monkeypatch):
    def refuse(**options):
        raise importlib.import_module("wandb.errors").UsageError("no API key")

    monkeypatch.setattr(offline, "init", refuse)
    with pytest.raises(InputError, match="no API key; log in with 'wandb login'.*offline"):
        with loggers.opened(["wandb"], tmp_path, settings):
            raise AssertionError("opened all the same")


def test_all_are_closed_where_training_fails(tmp_path, settings, monkeypatch):
    seen = []

    class Recorder:
        def __init__(self, folder, config):
            seen.append("opened")

        def log(self, record):
            seen.append(record["epoch"])

        def close(self):
            seen.append("closed")

    monkeypatch.setitem(loggers.LOGGERS, "tensorboard", Recorder)
    with pytest.raises(ZeroDivisionError):
        with loggers.opened(["tensorboard"], tmp_path, settings) as (log,):
            log.log(RECORDS[0])
            raise ZeroDivisionError
    assert seen == ["opened", 1, "closed"]
