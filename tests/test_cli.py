"""cli: help, one line for every mistake, and the demo from training to certificates."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from citrus_lirpa import __version__, _compat
from citrus_lirpa.cli import main

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(main.commands)


def run(*args) -> tuple[int, str]:
    """Exit status and everything printed; a traceback fails the test."""
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def sets(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """A run folder of the demo, cut short, and what training printed."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    few = sets("train.epochs=4", "train.eps=0.03", "train.lr=0.01", "loss.attack_steps=3",
               "data.limit=640")  # fmt: skip
    status, output = run("train", "--preset", "digits", *few, "--out", folder, "--quiet")
    assert status == 0, output
    return folder, output


# -- help ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_every_command_has_an_example(command, flag):
    status, output = run(command, flag)
    assert status == 0 and output.startswith("Usage: ")
    lines = [line.strip() for line in output.splitlines()]
    assert any(line.startswith(f"citrus-lirpa {command}") for line in lines)


def test_help_and_version():
    status, output = run("--help")
    assert status == 0 and all(f"\n  {command} " in output for command in COMMANDS)
    assert run("--version") == (0, f"citrus-lirpa, version {__version__}\n")


# -- the demo -----------------------------------------------------------------------


def is_png(path: Path) -> bool:
    with Image.open(path) as picture:
        picture.load()
        return picture.format == "PNG" and min(picture.size) > 100


def percent(output: str, row: str) -> float:
    (line,) = [line for line in output.splitlines() if line.startswith(f"{row} ")]
    return float(line[len(row) :].partition("%")[0])


def test_train(trained):
    folder, output = trained
    files = {"config.toml", "checkpoint.pt", "metrics.jsonl", "curves.png"}
    assert {path.name for path in folder.iterdir()} >= files
    assert is_png(folder / "curves.png")
    *_, last = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert last["epoch"] == 4 and f"epoch 4: ε 0.0300, loss {last['loss']:.3f}" in output
    assert f"training accuracy {100 * last['accuracy']:.2f} %" in output
    assert f"citrus-lirpa eval {folder}" in output


def test_eval_prints_what_it_writes(trained, tmp_path):
    folder, _ = trained
    status, output = run("eval", folder / "checkpoint.pt", "--method", "crown", "--eps",
                         "16/255", "--limit", 59, "--group-size", 4, "--quiet",
                         "--out", tmp_path)  # fmt: skip
    assert status == 0
    record = json.loads((tmp_path / "eval-crown.json").read_text())
    settings = ("images", "eps", "group_size", "clip", "data")
    assert [record[key] for key in settings] == [59, 16 / 255, 4, None, "digits"]
    certified, uap = record["certified_accuracy"], record["uap_accuracy"]
    shares = {
        "standard accuracy": record["standard_accuracy"],
        "certified by ibp": certified["ibp"],
        "certified by crown-ibp": certified["crown-ibp"],
        "certified by crown": certified["crown"],
        "UCert (certified average UAP accuracy)": uap["certified"],
        "UAP accuracy under attack": uap["attacked"],
    }
    for row, share in shares.items():
        assert percent(output, row) == pytest.approx(100 * share, abs=0.005)
    assert certified["ibp"] < certified["crown"] == uap["certified"]
    assert certified["ibp"] <= certified["crown-ibp"] <= certified["crown"]
    assert 0 < uap["certified"] <= uap["attacked"] <= record["standard_accuracy"]
    groups = record["groups"]
    assert len(groups["safe_at_least"]) == len(groups["safe_at_most"]) == 15
    assert sum(groups["safe_at_least"]) == round(59 * uap["certified"])
    assert sum(groups["safe_at_most"]) == round(59 * uap["attacked"])
    decided = record["decided_by"]
    assert len(decided) == 59 and decided.count("ibp") == round(59 * certified["ibp"])
    assert is_png(tmp_path / "uap-crown.png")
    assert str(tmp_path / "uap-crown.png") in output


def test_eval_by_default(trained):
    """α-CROWN at the run's ε, into the run's folder, the same each time."""
    folder, _ = trained
    records = []
    for _ in range(2):
        torch.manual_seed(99)
        status, output = run("eval", folder, "--limit", 15, "--quiet")
        assert torch.initial_seed() == 0  # --seed, of which all random starts come
        assert status == 0 and "15 test images, ε = 0.03, groups of 5, not clipped" in output
        record = json.loads((folder / "eval-alpha-crown.json").read_text())
        records.append({k: v for k, v in record.items() if k != "seconds"})
    assert records[0] == records[1]
    assert list(record["seconds"]) == ["ibp", "crown-ibp", "crown", "alpha-crown", "total"]


def test_results_are_printed_even_where_they_cannot_be_written(trained):
    status, output = run("eval", trained[0], "--method", "ibp", "--limit", 10, "--quiet",
                         "--out", "/dev/null/x")  # fmt: skip
    assert status == 1 and "/dev/null/x" in output.splitlines()[-1]
    assert "standard accuracy" in output


def test_doctor():
    status, output = run("doctor")
    assert status == 0 and output.endswith("all checks passed\n")
    assert f"citrus-lirpa {__version__}" in output and torch.__version__ in output
    assert "data set digits: embedded" in output


# -- mistakes -----------------------------------------------------------------------


def said(status: int, output: str, expected: int) -> str:
    """The one line of the error."""
    assert status == expected, output
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert output.endswith(f"{line}\n") and len(line) < 400
    return line


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["--preset", "digts"], 2, ["'digts'", "'digits'"]),
        (["--preset", "digits", *sets("data.name=mnst")], 2, ["'mnst'", "'mnist'"]),
        (["--preset", "digits", *sets("model.name=cnn")], 2, ["'cnn'", "'cnn7'"]),
        (["--preset", "digits", *sets("loss.name=citris")], 2, ["'citris'", "'citrus'"]),
        (["--preset", "digits", *sets("train.esp=1")], 2, ["'esp'", "'eps'"]),
        (["--preset", "digits", *sets("train.eps")], 2, ["'train.eps'", "table.key=value"]),
        (["--preset", "digits", *sets("train.eps=-1")], 2, ["-1", "8/255"]),
        (["--preset", "digits", *sets("train.eps=abc")], 2, ["'abc'", "8/255"]),
        (["--preset", "digits", *sets("loss.tau_ratio=1.5")], 2, ["1.5", "(0, 1]"]),
        (["--preset", "digits", *sets("loss.pairing=groups", "loss.partners=0")], 2,
         ["size is 1", "at least 2"]),
        (["--preset", "digits", "--mode", "huge"], 2, ["'huge'", "'paper'"]),
        (["--preset", "digits", "--device", "tpu"], 2, ["'tpu'", "--device cpu"]),
        (["--preset", "digits", "--device", "xla"], 2, ["'xla'", "--device cpu"]),
        (["--preset", "digits", *sets("model.name=convsmall")], 2, ["8x8", "mlp"]),
        (["--preset", "digits", *sets("data.crop=9")], 2, ["crop 9", "8 pixels"]),
        (["--preset", "mnist-0.1", "--no-download", "--data-dir", "none"], 1,
         ["mnist", "none", "--data-dir"]),
        (["--config", "none.toml"], 2, ["none.toml", "No such file"]),
        (["--preset", "digits", "--config", "none.toml"], 2, ["either"]),
        ([], 2, ["preset", "configuration file"]),
        (["--preset", "digits", "--epochs", "3"], 2, ["--epochs"]),
    ],
    ids=lambda value: "_".join(value)[-30:] if isinstance(value, list) else None,
)  # fmt: skip
def test_train_refuses(tmp_path, monkeypatch, args, status, words):
    monkeypatch.chdir(tmp_path)
    line = said(*run("train", *args), status)
    assert all(word in line for word in words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--mode", "paper", *sets("train.batch_size=7")], ["7", "multiple of 5"]),
        (["--mode", "paper", *sets("train.batch_size=3")], ["batch of 3", "smaller group"]),
        (sets("train.batch_size=4"), ["got 4", "larger batch"]),
        (sets("train.batch_size=1398"), ["1398", "1397"]),
        (sets("loss.method=crwn"), ["'crwn'", "crown"]),
        (sets("train.seed=99999999999999999999"), ["99999999999999999999"]),
    ],
    ids=lambda value: value[-1],
)
def test_train_refuses_before_it_makes_a_folder(tmp_path, args, words):
    folder = tmp_path / "run"
    few = sets("train.epochs=1", "train.ramp_start=1")
    status, output = run("train", "--preset", "digits", "--quiet", "--out", folder, *few, *args)
    line = said(status, output, 2)
    assert all(word in line for word in words)
    assert not folder.exists()  # the corrected command can use it


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["--eps", "-1"], 2, ["-1", ">= 0"]),
        (["--eps", "abc"], 2, ["'abc'", "8/255"]),
        (["--eps", "nan"], 2, ["nan", "finite"]),
        (["--group-size", "1"], 2, ["is 1", "expected 2 to 10"]),
        (["--group-size", "11"], 2, ["is 11", "expected 2 to 10"]),
        (["--limit", "0"], 2, ["limit is 0", "at least 1"]),
        (["--batch-size", "0"], 2, ["batch size is 0", "at least 1"]),
        (["--method", "crwn"], 2, ["'crwn'", "'crown'"]),
        (["--device", "tpu"], 2, ["'tpu'", "--device cpu"]),
        (["--seed", "99999999999999999999"], 2, ["99999999999999999999"]),
    ],
    ids=lambda value: "=".join(value) if isinstance(value, list) else None,
)
def test_eval_refuses(trained, tmp_path, args, status, words):
    common = ("--limit", "10", "--quiet", "--out", tmp_path / "out")
    line = said(*run("eval", trained[0], *common, *args), status)
    assert all(word in line for word in words)
    assert list(tmp_path.iterdir()) == []


def test_eval_refuses_what_is_no_checkpoint(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "foreign.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name, words in [("none", "does not exist"), ("foreign.pt", "not a citrus-lirpa"),
                        ("text.pt", "no checkpoint"), (".", "checkpoint.pt")]:  # fmt: skip
        line = said(*run("eval", tmp_path / name), 1)
        assert words in line and str(tmp_path / name) in line


def test_resume_refuses(trained, tmp_path):
    folder, _ = trained
    for more in (["--preset", "digits"], sets("train.epochs=9"), ["--mode", "paper"],
                 ["--out", tmp_path / "x"], ["--config", "x.toml"]):  # fmt: skip
        assert "--resume" in said(*run("train", "--resume", folder, *more), 2)
    for path in (tmp_path, tmp_path / "none"):
        line = said(*run("train", "--resume", path), 1)
        assert str(path) in line and "config.toml" in line


def test_out_that_is_in_use_is_left_alone(trained):
    folder, _ = trained
    before = {path: path.read_bytes() for path in folder.iterdir()}
    line = said(*run("train", "--preset", "digits", "--out", folder), 1)
    assert str(folder) in line and "--resume" in line and "--out" in line
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


# -- whole processes ----------------------------------------------------------------


def process(*command) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_launcher_of_a_checkout():
    done = process("cli.py", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {command} " in done.stdout for command in COMMANDS)


def test_a_mistake_in_a_process_of_its_own():
    done = process("cli.py", "train", "--preset", "digts")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: unknown preset 'digts'")


WITHOUT = """
import json, sys
sys.modules["auto_LiRPA"] = None
from click.testing import CliRunner
from citrus_lirpa.cli import main
results = [CliRunner().invoke(main, args) for args in json.loads(sys.argv[1])]
json.dump([[r.exit_code, r.output] for r in results], sys.stdout)
"""


def test_without_auto_lirpa(trained, tmp_path):
    out = str(tmp_path / "run")
    needing = [["train", "--preset", "digits", "--out", out], ["doctor"]]
    needing += [[command, str(trained[0])] for command in ("eval", "attack")]
    needing += [["export", str(trained[0]), "--out", out]]
    helping = [["--help"], *([command, "--help"] for command in COMMANDS)]
    done = process("-c", WITHOUT, json.dumps(needing + helping))
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads(done.stdout)
    assert {args[0] for args in needing} == set(COMMANDS)
    expected = [1, f"Error: auto_LiRPA is not installed: {_compat.INSTALL_HINT}\n"]
    assert results[: len(needing)] == [expected] * len(needing)
    assert all(status == 0 and "Usage: " in text for status, text in results[len(needing) :])
    assert not Path(out).exists()


def test_without_a_terminal_epochs_are_lines(tmp_path):
    options = sets("train.epochs=2", "data.limit=128")
    status, output = run("train", "--preset", "digits", *options, "--out", tmp_path / "run")
    assert status == 0
    assert re.findall(r"^epoch (\d): ε [\d.]+, loss ", output, re.MULTILINE) == ["1", "2"]
