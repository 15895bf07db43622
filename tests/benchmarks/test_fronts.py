"""fronts.py: every study that it writes is one that ``tune`` takes, and trials cost the same."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest

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
            assert config.loss.get("k", 2) == (3 if name == "citrus-k3" else 2)
            assert config.data.held_out == given.held_out


@pytest.mark.parametrize("name", ["citrus", "citrus-k3", "sabr", "mtl-ibp", "ibp"])
def test_the_study_of_the_digits_goes_on(fronts, name, tmp_path, monkeypatch):
    shutil.copytree(BENCHMARKS / "fronts", tmp_path / "benchmarks" / "fronts")
    monkeypatch.chdir(tmp_path)
    plan = study.read(fronts.write_study("digits", name, 13, Path("out")))
    with closing(Storage(plan, create=False)) as storage:
        storage.check()
        assert len(storage.trials()) == 12 and all(trial.finished for trial in storage.trials())
        assert storage.begin().number == 12
