"""The run folder, and training, evaluation and attack as functions of the library."""

import json
from pathlib import Path

import pytest
import torch

from citrus_lirpa import Protocol, data
from citrus_lirpa.errors import CheckpointError, OccupiedError
from citrus_lirpa.runs.attacking import AttackProtocol, attack_images, attack_run
from citrus_lirpa.runs.evaluating import evaluate_run
from citrus_lirpa.runs.folder import RunFolder
from citrus_lirpa.runs.launch import Launch, Observer
from citrus_lirpa.runs.networks import evaluation_images, load_network
from citrus_lirpa.runs.training import train_run
from citrus_lirpa.training.config import resolve

CPU = torch.device("cpu")
SMALL = ("data.limit=64", "train.epochs=2", "model.hidden=[8]", "loss.attack_steps=1")


def digits():
    return resolve(preset="digits", overrides=SMALL)


def test_begin_and_read_the_configuration(tmp_path):
    config, new = digits(), RunFolder(tmp_path / "new" / "run")
    new.begin(config)
    assert new.begun_config() == config  # without a checkpoint yet
    (tmp_path / "empty").mkdir()
    RunFolder(tmp_path / "empty").begin(config)
    with pytest.raises(CheckpointError, match="not a run folder"):
        RunFolder(tmp_path / "new").begun_config()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_begin_refuses_what_is_in_use(tmp_path, kind):
    path = tmp_path / "run"
    file = path / "notes" if kind == "folder" else path
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(CheckpointError) as caught:
        RunFolder(path).begin(digits())
    assert str(path) in str(caught.value) and "another --out" in str(caught.value)
    assert file.read_text() == "mine"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [file]


def observing(calls: list) -> Observer:
    """Notes every call by its name."""
    names = ("on_start", "on_epoch", "on_set_aside", "on_result", "draw")
    return Observer(**{name: lambda *args, name=name: calls.append(name) for name in names})


def test_a_run_is_trained_evaluated_and_attacked_without_a_command_line(tmp_path, capfd):
    folder, calls = tmp_path / "run", []
    images = data.load("digits", train=True, data_dir=tmp_path)
    history = train_run(digits(), images, folder, Launch(device=CPU, observer=observing(calls)))
    assert calls == ["on_start", "on_epoch", "on_epoch", "draw"]
    run = RunFolder(folder)
    assert len(history.records) == 2 and run.is_trained() and run.evaluated() == []
    with pytest.raises(OccupiedError, match="not empty"):
        train_run(digits(), images, folder, Launch(device=CPU))

    network = load_network(folder)
    test = evaluation_images(network, tmp_path, held_out=False, download=False)
    shared = dict(device=CPU, observer=observing(calls))
    for eps, requeue, expected in (
        (0.1, False, ["on_result", "draw"]),
        (0.1, True, []),  # which is finished
        (0.2, True, ["on_set_aside", "on_result", "draw"]),
    ):
        calls.clear()
        protocol = Protocol(eps=eps, method="ibp", relational="none", limit=10)
        launch = Launch(requeue=requeue, **shared)
        found = evaluate_run(network, test, protocol, folder, launch)
        assert calls == expected and found.new == bool(expected) and found.record["eps"] == eps
        assert json.loads(run.evaluation("ibp").record.read_text()) == found.record
    assert run.evaluated() == ["ibp"] and not found.files.partial.exists()

    calls.clear()
    protocol = AttackProtocol(eps=0.2, limit=20, epochs=1)
    both = attack_images(network, protocol.split, tmp_path, download=False)
    found = attack_run(network, both, protocol, folder, Launch(**shared))
    assert calls == ["on_result", "draw"] and set(found.files.written()) == {
        "perturbation", "results", "effects"
    }  # fmt: skip
    assert json.loads(Path(found.files.record).read_text()) == found.record
    assert capfd.readouterr() == ("", "")
