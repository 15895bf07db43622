"""No order, no limit and no result depends on the time of day, which may jump."""

import random
import time
from pathlib import Path

import torch
from command_line import run, sets

from citrus_lirpa.training import checkpoint


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    def work(folder: Path) -> tuple[dict, str]:
        few = sets("data.limit=64", "train.epochs=2", "train.batch_size=32", "model.hidden=[8]")
        status, output = run("train", "--preset", "digits", *few, "--out", folder)
        assert status == 0, output
        status, output = run("eval", folder, "--limit", "10", "--quiet")
        assert status == 0, output
        shares = [line for line in output.splitlines() if line.startswith("UCert")]
        return checkpoint.load(folder)[1]["model"], shares[0].split()[5]

    weights, proved = work(tmp_path / "steady")
    draw = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: draw.uniform(0, 4e9))
    again, proved_again = work(tmp_path / "jumping")
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    assert proved_again == proved and 0 <= float(proved) <= 100
