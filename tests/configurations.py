"""Configurations that tests resolve, and the refusals of wrong ones."""

import pytest

from citrus_lirpa.errors import ConfigError
from citrus_lirpa.training.config import RunConfig, resolve

COMPLETE = """
[data]
name = "digits"
[model]
name = "mlp"
[loss]
name = "citrus"
tau_ratio = 0.5
[train]
eps = 0.1
epochs = 3
"""
#: A sweep of small runs that are trained and evaluated by IBP.
SMALL_SWEEP = """
preset = "digits"
method = "ibp"
[set]
"data.limit" = 64
"model.hidden" = [8]
"train.batch_size" = 32
"train.epochs" = {epochs}
[grid]
{grid}
[eval]
limit = 10
method = "ibp"
relational = "none"
"""
#: How a study's points are searched, and how those of its front are judged.
JUDGED = """
[search]
method = "ibp"
limit = 50
[front]
seeds = [0, 1]
method = "crown-ibp"
"""


def digits(*overrides: str, **more) -> RunConfig:
    return resolve(preset="digits", overrides=overrides, **more)


def from_file(path, text: str, *overrides: str, **more) -> RunConfig:
    path = path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return resolve(file=path, overrides=overrides, **more)


def refusal(call, *args, error: type = ConfigError, **more) -> str:
    """The message of the error that ``call`` raises, which is one line."""
    with pytest.raises(error) as caught:
        call(*args, **more)
    message = str(caught.value)
    assert message and "\n" not in message
    return message
