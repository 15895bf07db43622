"""Nothing depends on the time of day, which may jump: no order, no limit, no result."""

import ast
import random
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import citrus_lirpa
from citrus_lirpa.cli import main
from citrus_lirpa.training import checkpoint

FOLDER = Path(citrus_lirpa.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
STEADY = {"monotonic", "perf_counter", "sleep"}
#: The name of a run folder that the user gave none, and the date on a report.
ALLOWED = {("cli/train.py", "strftime"), ("page/__init__.py", "datetime")}
DURATIONS = {"timedelta"}
DATES = {"st_mtime", "st_ctime", "st_atime", "getmtime", "getctime", "getatime", "fromtimestamp"}


def clocks(tree: ast.AST) -> set[str]:
    """What a file asks of the time of day."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "time":
                found |= {node.attr} - STEADY
            found |= {node.attr} & DATES
        elif isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            found |= {name.name for name in node.names} - DURATIONS
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name == "datetime"}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(FOLDER).as_posix())
def test_no_module_asks_for_the_time_of_day(file):
    name = file.relative_to(FOLDER).as_posix()
    found = {(name, asked) for asked in clocks(ast.parse(file.read_text("utf-8")))}
    assert found <= ALLOWED


@pytest.mark.parametrize(
    "text", ["time.time()", "import datetime", "from time import time", "path.stat().st_mtime",
             "time.strftime('%Y')", "os.path.getmtime(x)"],
)  # fmt: skip
def test_clocks_are_found(text):
    assert len(clocks(ast.parse(text))) == 1 and not clocks(ast.parse("time.monotonic()"))


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
