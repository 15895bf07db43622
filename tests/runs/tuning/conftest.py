"""Studies of tiny trainings on the digits."""

from pathlib import Path

import pytest

from citrus_lirpa.runs.tuning import study

STUDY = """
preset = "digits"
trials = {trials}
{head}
[set]
"data.held_out" = 300
"data.limit" = 128
"model.hidden" = [8]
"train.epochs" = 4
"loss.attack_steps" = 1
{more}
"""
#: What takes least time, and does not decide about what is tested.
QUICK = """
[search]
method = "ibp"
limit = 50
"""


@pytest.fixture
def write(tmp_path):
    """Write the file of a small study; its folder is runs/ beside it unless ``head`` says so."""

    def to_file(
        trials: int = 2, head: str = "", more: str = QUICK, name: str = "small", **changes: str
    ) -> Path:
        if "folder" not in head:
            head += f'\nfolder = "{tmp_path / "runs" / name}"'
        text = STUDY.format(trials=trials, head=head, more=more)
        for old, new in changes.items():
            text = text.replace(old, new)
        path = tmp_path / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


@pytest.fixture
def small(write) -> study.Study:
    """A study that no worker has begun."""
    return study.read(write())
