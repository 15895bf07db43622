"""fronts.py: every study that it writes is one that ``tune`` takes, and trials cost the same."""

import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from citrus_lirpa.errors import DataError, Interrupted
from citrus_lirpa.runs.tuning import study
from citrus_lirpa.runs.tuning.storage import Storage

pytest.importorskip("optuna", reason="Optuna is not installed")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COSTLY = {"loss.k", "loss.partners", "loss.attack_steps", "train.epochs"}


@pytest.fixture
def fronts(script):
    return script("fronts")


def test_every_study_can_be_tuned(fronts, tmp_path):
    for setting, given in fronts.SETTINGS.items():
        for name in fronts.STUDIES:
            plan = study.read(fronts.write_study(setting, name, 20, tmp_path))
            config = plan.config(plan.recipe())
            assert not COSTLY & plan.space.keys() and plan.front is not None
            step = given.step.get(name, given.step[config.loss["name"]])
            if config.train.epochs > 8:  # fewer are rounded far
                assert config.train.epochs * step == pytest.approx(given.epochs, rel=0.05)
            assert config.loss.get("k", 2) == {"citrus-k3": 3, "citrus-measured": 0}.get(name, 2)
            assert config.data.held_out == given.held_out


@pytest.mark.parametrize(
    "name", ["citrus", "citrus-k3", "citrus-measured", "sabr", "mtl-ibp", "ibp"]
)
def test_the_study_of_the_digits_goes_on(fronts, name, tmp_path, monkeypatch):
    shutil.copytree(BENCHMARKS / "fronts", tmp_path / "benchmarks" / "fronts")
    monkeypatch.chdir(tmp_path)
    plan = study.read(fronts.write_study("digits", name, 13, Path("out")))
    with closing(Storage(plan, create=False)) as storage:
        storage.check()
        assert len(storage.trials()) == 12 and all(trial.finished for trial in storage.trials())
        assert storage.begin().number == 12


def test_a_trial_that_another_machine_lost_is_made_up_for(fronts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(fronts.SETTINGS, "digits", fronts.Setting(
        2, 300, 300, fronts.DIGITS_STEP, ('"model.name" = "mlp"', '"model.hidden" = [8]')
    ))  # fmt: skip
    file = fronts.write_study("digits", "ibp", 2, Path("out"))
    plan = study.read(file)
    with closing(Storage(plan, create=True)) as storage:
        storage.values(storage.begin())  # its folder is elsewhere
        for trials in (1, 1, 2):
            fronts.tune(file, trials, Path("data"))
            done = [trial.number for trial in storage.trials() if trial.finished]
            assert done == list(range(1, trials + 1))


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (Interrupted("interrupted; the training is saved"), 130,
         "interrupted; the training is saved; the same command continues"),
        (DataError("no data here"), 1, "no data here"),
    ],
)  # fmt: skip
def test_an_error_in_a_trial_is_one_line(fronts, tmp_path, monkeypatch, error, status, said):
    def stop(worker):
        raise error

    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks" / "fronts").mkdir(parents=True)
    monkeypatch.setattr(fronts.Worker, "run", stop)
    stopped = CliRunner().invoke(fronts.main, ["--setting", "digits", "--study", "ibp"])
    *_, line = stopped.output.splitlines()
    assert (stopped.exit_code, line) == (status, f"Error: {said}")


@pytest.fixture
def met(monkeypatch):
    """What the wait for a child process meets: Ctrl-C twice, then its exit status."""
    left = [KeyboardInterrupt(), KeyboardInterrupt(), 130]

    class Process:
        def wait(self):
            now = left.pop(0)
            if isinstance(now, int):
                return now
            raise now

    monkeypatch.setattr(subprocess, "Popen", lambda command: Process())
    return left


def test_a_command_that_ctrl_c_stops_is_waited_for(script, met):
    with pytest.raises(SystemExit) as end:
        script("commands").citrus_lirpa("tune", "study.toml")
    assert end.value.code == 130 and not met


def test_the_sweep_of_a_paper_table_that_ctrl_c_stops_is_waited_for(script, met, tmp_path):
    stopped = CliRunner().invoke(script("paper").main, ["table3", "--out", str(tmp_path)])
    assert stopped.exit_code == 130 and not met
