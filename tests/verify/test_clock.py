"""No order, no limit and no result depends on the time of day, which may jump."""

import random
import time
from pathlib import Path

import torch
from click.testing import CliRunner

from citrus_lirpa.cli import main
from citrus_lirpa.training import checkpoint


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    def work(folder: Path) -> tuple[dict, str]:
        result = CliRunner().invoke(
            main,
            ["train", "--preset", "digits", "--set", "data.limit=64", "--set", "train.epochs=2",
             "--set", "train.batch_size=32", "--set", "model.hidden=[8]", "--out", str(folder)],
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        result = CliRunner().invoke(main, ["eval", str(folder), "--limit", "10", "--quiet"])
        assert result.exit_code == 0, result.output
        shares = [line for line in result.output.splitlines() if line.startswith("UCert")]
        return checkpoint.load(folder)[1]["model"], shares[0].split()[5]

    weights, proved = work(tmp_path / "steady")
    draw = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: draw.uniform(0, 4e9))
    again, proved_again = work(tmp_path / "jumping")
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    assert proved_again == proved and 0 <= float(proved) <= 100
