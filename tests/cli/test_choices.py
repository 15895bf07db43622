"""Choices: the names and defaults that help shows are those that the commands use."""

from dataclasses import MISSING, fields

import pytest
from command_line import run

from citrus_lirpa import data, verify
from citrus_lirpa.attacks import SgdUap
from citrus_lirpa.bounds import precision
from citrus_lirpa.bounds.net import BOUNDS
from citrus_lirpa.bounds.norms import NORMS
from citrus_lirpa.cli import choices
from citrus_lirpa.cli.actions import sweep
from citrus_lirpa.training import config, loggers


@pytest.mark.parametrize(
    ("shown", "used"),
    [
        ("PRESETS", config.presets()),
        ("METHODS", config.methods()),
        ("MODES", config.MODES),
        ("PRECISIONS", precision.PRECISIONS),
        ("LOGGERS", loggers.LOGGERS),
        ("LAUNCHERS", sweep.LAUNCHERS),
        ("DATASETS", data.DATASETS),
        ("STAGES", verify.STAGES),
        ("BOUNDS", BOUNDS),
        ("RELATIONAL", verify.RELATIONAL),
        ("SOLVERS", verify.SOLVERS),
    ],
)
def test_names(shown, used):
    assert list(getattr(choices, shown)) == list(used)


@pytest.mark.parametrize(
    ("shown", "used"), [("PROTOCOL", verify.Protocol), ("SMOOTHING", verify.Smoothing)]
)
def test_defaults(shown, used):
    given = (f for f in fields(used) if f.default is not MISSING and f.name != "norm")
    defaults = {f.name: f.default for f in given}
    assert getattr(choices, shown) == defaults


def test_numbers():
    assert [float(norm) for norm in choices.NORMS] == list(NORMS)
    assert choices.MAX_SEED == config.MAX_SEED
    assert choices.SGD_UAP_EPOCHS == SgdUap.epochs


def test_an_unknown_command_names_the_nearest():
    status, output = run("trian")
    assert status == 2
    assert "Error: unknown command 'trian'; did you mean 'train'? (known: train, eval," in output
