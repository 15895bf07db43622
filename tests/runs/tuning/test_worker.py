"""Workers: what they finish, continue after a kill, end early and judge."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import run, said
from configurations import JUDGED

from citrus_lirpa.errors import InputError, Interrupted, NonFiniteLossError
from citrus_lirpa.formats.locks import try_claim
from citrus_lirpa.runs.folder import RunFolder
from citrus_lirpa.runs.tuning import stopping, study, worker
from citrus_lirpa.runs.tuning.points import Judged, front_of, judged_points, points_of
from citrus_lirpa.runs.tuning.storage import Storage
from citrus_lirpa.runs.tuning.worker import Worker
from citrus_lirpa.training import checkpoint, trainer
from citrus_lirpa.training.trainer import Trainer

pytest.importorskip("optuna", reason="Optuna is not installed")


def work(plan: study.Study, say=None) -> Storage:
    """Let one worker do all, and return what is in the storage then."""
    storage = Storage(plan, create=True)
    Worker(
        plan, storage, torch.device("cpu"), Path("none"), False, say or (lambda line: None)
    ).run()
    return Storage(plan, create=False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder)[1]["model"]


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_study_from_begin_to_end(small):
    lines = []
    storage = work(small, lines.append)
    trials = storage.trials()
    assert [trial.number for trial in trials] == [0, 1]
    assert all(trial.state == "complete" for trial in trials)
    assert [line.split(":")[0] for line in lines] == [f"trial {i}" for i in range(2)]
    for trial in trials:
        folder = small.folder / "trials" / f"{trial.number:04d}"
        assert RunFolder(folder).begun_config() == small.config(trial.values)
        record = json.loads((folder / "eval-ibp.json").read_text())
        found = (record["standard_accuracy"], record["uap_accuracy"]["certified"])
        assert trial.scores == found and record["held_out"] and record["images"] == 50
        assert trial.notes.keys() == {"at 0.5", "at 0.75", "seconds"}
    assert len(work(small).trials()) == 2  # nothing is left to do
    assert len(work(replace(small, trials=3)).trials()) == 3


@pytest.mark.parametrize(
    ("method", "model"),
    [
        ("citrus", '"model.name" = "cnn5"\n"model.width" = 0.05'),  # with BatchNorm
        ("colt", '"model.hidden" = [8, 8]'),  # which freezes layers
        ("uat", '"model.hidden" = [8]'),  # which keeps perturbations
    ],
)
def test_measures_while_training_do_not_change_the_training(write, method, model):
    changes = {'"model.hidden" = [8]': model, '"loss.attack_steps" = 1\n': ""}
    head = f'method = "{method}"\nstop_at = '
    plain = study.read(write(1, f"{head}[]", name="plain", **changes))
    watched = study.read(write(1, f"{head}[0.25, 0.5, 0.75]", name="watched", **changes))
    one, other = work(plain).trials()[0], work(watched).trials()[0]
    assert one.scores == other.scores and len(other.notes) == len(one.notes) + 3
    assert same(*(weights(plan.folder / "trials" / "0000") for plan in (plain, watched)))


def test_a_killed_worker_loses_nothing_but_steps(small, monkeypatch):
    """The second trial is stopped in the middle, as by a kill right after a checkpoint."""
    whole = work(replace(small, name="whole", folder=small.folder / "whole",
                         storage=str(small.folder / "whole.journal"), trials=2))  # fmt: skip
    saved = Trainer._save
    calls = []

    class Killed(BaseException):
        pass

    def save(training):
        saved(training)
        calls.append(1)
        if len(calls) == 7:  # four epochs and the end of the first trial, two epochs of the other
            raise Killed

    monkeypatch.setattr(Trainer, "_save", save)
    monkeypatch.setattr(trainer, "SAVING_APART", 0)  # after every epoch, however short
    two = replace(small, trials=2)
    with pytest.raises(Killed):
        work(two)
    assert [t.state for t in Storage(two, create=False).trials()] == ["complete", "running"]
    lines = []
    storage = work(two, lines.append)
    assert lines[0] == "trial 1: continued" and len(lines) == 2
    assert len(calls) == 10  # two more epochs and the end
    assert [t.scores for t in storage.trials()] == [t.scores for t in whole.trials()]
    folders = [small.folder / "trials" / "0001", small.folder / "whole" / "trials" / "0001"]
    assert same(*map(weights, folders))


def test_killed_before_the_trial_has_values_or_a_folder(small):
    storage = Storage(small, create=True)
    storage.begin()  # a worker that was killed right after it had asked
    begun = storage.begin()  # and one that was killed after it had made the folder
    claim = try_claim(small.folder / "trials" / f"{begun.number:04d}", "trial")
    claim.close()
    trials = work(small).trials()
    assert [t.state for t in trials] == ["running", *["complete"] * 2]


def test_killed_between_the_end_and_telling_it(small, monkeypatch):
    class Killed(BaseException):
        pass

    def complete(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "complete", complete)
        with pytest.raises(Killed):
            work(small)
    trained = (small.folder / "trials" / "0000" / "checkpoint.pt").stat().st_mtime_ns
    assert work(small).trials()[0].state == "complete"
    assert (small.folder / "trials" / "0000" / "checkpoint.pt").stat().st_mtime_ns == trained


def test_a_trial_that_another_worker_is_at_is_left_alone_and_waited_for(small, monkeypatch):
    one = replace(small, trials=1)
    storage = Storage(one, create=True)
    trial = storage.begin()
    storage.values(trial)
    claim = try_claim(one.folder / "trials" / "0000", "trial")
    lines = []

    def sleep(_):  # the other worker comes to its end meanwhile
        storage.complete(trial, 0.5, 0.25)
        claim.close()

    monkeypatch.setattr(worker.time, "sleep", sleep)
    assert work(one, lines.append).trials()[0].scores == (0.5, 0.25)
    assert lines == ["waiting for the trials of other workers"]


def test_a_trial_on_a_machine_with_another_folder_is_not_waited_for(small):
    one = replace(small, trials=1)
    storage = Storage(one, create=True)
    storage.values(storage.begin())
    assert [t.state for t in work(one).trials()] == ["running"]


def test_a_training_that_cannot_reach_the_front_is_ended(small, monkeypatch):
    monkeypatch.setattr(stopping, "ENOUGH", 0)
    plan = replace(small, least=study.Least(standard=0.999, ucert=0.999), trials=2)
    storage = Storage(plan, create=True)
    for _ in range(2):
        trial = storage.begin()
        storage.values(trial)
        storage.note(trial, "at 0.5", (0.25, 0.25))
        storage.complete(trial, 0.3, 0.3)
    lines = []
    last = work(replace(plan, trials=3), lines.append).trials()[2]
    assert last.state == "pruned" and last.notes.keys() == {"at 0.5"}
    assert lines[0].startswith("trial 2: ended after epoch 2 of 4 at standard ")
    assert len(RunFolder(plan.folder / "trials" / "0002").metrics.read_text().splitlines()) == 1


@pytest.mark.parametrize("error", [NonFiniteLossError("the loss became nan"), None])
def test_a_training_that_fails_is_a_finished_trial(small, write, monkeypatch, error):
    if error is None:  # more boxes than there are
        choices = '[space]\n"loss.worst" = { choices = [9] }'
        small = study.read(write(more=choices, name="boxes"))
    else:
        monkeypatch.setattr(worker, "train_run", lambda *_, **__: (_ for _ in ()).throw(error))
    lines = []
    found = work(replace(small, trials=2), lines.append).trials()
    assert [t.state for t in found] == ["fail", "fail"]
    words = "the loss became nan" if error else "worst is 9"
    assert all(words in t.notes["failed"] for t in found) and words in lines[0]


def test_images_that_cannot_be_held_out_cost_no_trial(write):
    small = study.read(write(**{'"data.held_out" = 300': '"data.held_out" = 9000'}))
    storage = Storage(small, create=True)
    with pytest.raises(InputError, match="data.held_out is 9000; expected 0 to"):
        Worker(small, storage, torch.device("cpu"), Path("none"), False, print).run()
    assert all(trial.state == "waiting" for trial in storage.trials())


def test_an_interruption_leaves_the_trial_to_be_continued(small, monkeypatch):
    def stopped(*_, **__):
        raise Interrupted("stopped in epoch 2 of 4, saved")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "train_run", stopped)
        with pytest.raises(Interrupted):
            work(small)
    assert [t.state for t in Storage(small, create=False).trials()] == ["running"]
    assert [t.state for t in work(small).trials()] == ["complete"] * 2


@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt(), Interrupted("stopped, saved; continue with: train --resume r")]
)
def test_a_study_that_ctrl_c_stops_is_continued_by_its_own_command(write, monkeypatch, stop):
    def stopped(*_, **__):
        raise stop

    file = write()
    monkeypatch.setattr(worker, "train_run", stopped)
    status, output = run("tune", file, "--device", "cpu")
    line = "Error: interrupted; all is saved: repeat the command to continue"
    assert (status, output.splitlines()[-1]) == (130, line)


def test_the_front_is_judged_with_every_seed(write):
    plan = study.read(write(3, more=f"{JUDGED}relational = 'none'\nlimit = 40"))
    lines = []
    storage = work(plan, lines.append)
    searched = front_of(points_of(plan, storage.trials()))
    judged = judged_points(plan, storage.trials(), storage.notes())
    assert [p.number for p in judged] == [p.number for p in searched]
    assert all(len(p.judged) == 2 for p in judged)
    assert sum(line.startswith("front, trial ") for line in lines) == 2 * len(judged)
    for point in judged:
        # the search's own network where the seed is the same, a new training for the other seed
        own = plan.folder / "trials" / f"{point.number:04d}"
        other = plan.folder / "front" / f"{point.number:04d}-seed1"
        for folder, found, seed in zip((own, other), point.judged, (0, 1), strict=True):
            record = json.loads((folder / "eval-crown-ibp.json").read_text())
            assert record["images"] == 40 and not record["held_out"]
            ucert = record["uap_accuracy"]["certified"]
            assert found == Judged(record["standard_accuracy"], ucert)
            config = RunFolder(folder).begun_config()
            assert config == plan.config(point.values, seed) and config.train.seed == seed
    lines.clear()
    work(plan, lines.append)
    assert lines == []  # all is judged


def test_the_command(write):
    file = write(2)
    status, output = run("tune", file, "--dry-run")
    assert status == 0 and "study small: 2 trials of citrus in" in output
    assert "loss.tau_ratio     0.05 to 1                     recipe: 0.6\n" in output
    assert not (file.parent / "runs").exists()
    status, output = run("tune", file, "--device", "cpu")
    assert status == 0 and "study small: 2 complete, 0 ended early, 0 failed" in output
    assert f"citrus-lirpa front {file}" in output
    assert run("tune", file)[0] == 0
    assert "small.toml: trials is 0; expected a number > 0" in said(*run("tune", write(0)), 2)
    wider = write(2, more='[space]\n"train.lr" = { low = 0.1, high = 1 }')
    assert "is another one than here" in said(*run("tune", wider), 2)
