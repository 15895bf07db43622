"""Fixtures of the tests of commands."""

from pathlib import Path

import pytest
from command_line import run, sets

from citrus_lirpa import imports


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """A run folder of the demo, cut short, and what training printed."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    few = sets("train.epochs=4", "train.eps=0.03", "train.lr=0.01", "loss.attack_steps=3",
               "data.limit=640")  # fmt: skip
    status, output = run("train", "--preset", "digits", *few, "--out", folder, "--quiet")
    assert status == 0, output
    return folder, output


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working folder, which is empty; no code is permitted in it yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(imports, "_PERMITTED", set())
    return tmp_path
