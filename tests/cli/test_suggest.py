"""``citrus-lirpa suggest``: a recipe that fits data, network and time, and that ``train`` takes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run, said, sets

from citrus_lirpa.runs.suggesting import suggest
from citrus_lirpa.training.advice import SHORT_RAMP
from citrus_lirpa.training.config import resolve

MINE = """
from torch import nn


def net():
    return nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 2))
"""


@pytest.fixture(autouse=True)
def files(here):
    Path("mine.py").write_text(MINE)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    x = np.clip(0.5 + 0.2 * (2 * y[:, None] - 1) + 0.1 * rng.normal(size=(300, 20)), 0, 1)
    np.savez("t.npz", x_train=x[:240], y_train=y[:240], x_test=x[240:], y_test=y[240:])


def written(*args):
    status, output = run("suggest", *args, "--out", "s.toml")
    assert status == 0, output
    return resolve(file="s.toml").train, output


def steps(train, images):
    an_epoch = images // train.batch_size
    return train.epochs * an_epoch, train.ramp_length * an_epoch


def test_a_table_and_a_network_are_trained_by_the_recipe():
    train, output = written("--data", "t.npz", "--model", "mine.py:net", "--minutes", "1")
    assert train.eps == 0.02 and 240 // train.batch_size >= 20
    assert steps(train, 240)[1] >= SHORT_RAMP and "warning" not in output
    few = sets("train.epochs=12", "train.ramp_length=6", "train.milestones=[]", "train.lr=0.02",
               "loss.attack_steps=1")  # fmt: skip
    assert run("train", "--config", "s.toml", "--out", "r", "--quiet", *few)[0] == 0
    last = json.loads(Path("r/metrics.jsonl").read_text().splitlines()[-1])
    assert last["accuracy"] >= 0.9
    assert run("eval", "r", "--trust-code", "--method", "ibp", "--quiet")[0] == 0


def test_the_training_fits_into_the_time():
    status, output = run("suggest", "--data", "digits", "--minutes", "0.1", "--out", "s.toml",
                         "--json")  # fmt: skip
    found = json.loads(output[output.index("{") :])  # a warning may stand before it
    assert status == 0 and found["minutes"] <= 0.1 and found["epochs"] >= 1
    assert Path("s.toml").read_text().startswith("# data: digits, 1397 training images\n")


def test_few_steps_get_a_higher_learning_rate():
    options = dict(
        eps=None, method="ibp", device=torch.device("cpu"), data_dir=Path(), download=False
    )
    rates = {}
    for minutes in (0.05, 0.5):
        train = suggest("digits", None, minutes=minutes, **options).config.train
        count = steps(train, 1397)[0]
        assert train.lr == pytest.approx(min(0.01, 5e-4 * (65_000 / count) ** 0.5), rel=0.05)
        rates[count] = train.lr
    assert rates[min(rates)] >= rates[max(rates)] > 5e-4


def test_too_short_a_time_is_said():
    train, output = written("--data", "digits", "--minutes", "0.0005")
    assert steps(train, 1397)[1] < SHORT_RAMP
    assert "warning: ε reaches its target within" in output
    assert train.ramp_start - 1 + train.ramp_length <= train.epochs


@pytest.mark.parametrize(
    ("eps", "preset", "ratio"),
    [("1/255", "tinyimagenet-1-255", None), ("2/255", "cifar10-2-255", 0.1),
     ("8/255", "cifar10-8-255", 0.7)],
)  # fmt: skip
def test_colour_images_get_the_recipe_of_the_nearest_radius(eps, preset, ratio):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (60, 3, 8, 8), dtype=np.uint8), np.arange(60) % 3
    np.savez("c.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    found = suggest(
        str(Path("c.npz").resolve()), None, eps=float(eval(eps)), method="citrus", minutes=0.05,
        device=torch.device("cpu"), data_dir=Path(), download=False,
    )  # fmt: skip
    assert found.preset == preset and found.config.model["name"] == "mlp"
    assert ratio is None or found.config.loss["tau_ratio"] == ratio


def test_what_cannot_be_used_is_refused_in_one_line_and_nothing_written():
    for args, message in (
        (("--data", "digits", "--minutes", "0"), "minutes is 0.0; expected a number > 0"),
        (("--data", "digits", "--eps", "2"), "train.eps is 2.0; expected 0 to 1"),
        (("--data", "t.npz", "--model", "mine.py:lost"), "has no function or class lost"),
    ):
        assert message in said(*run("suggest", *args, "--out", "s.toml"), 2)
        assert not Path("s.toml").exists()
    Path("s.toml").touch()
    assert "exists" in said(*run("suggest", "--data", "digits", "--out", "s.toml"), 2)
