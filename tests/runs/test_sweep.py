"""sweep: what a file means, and whole sweeps with faults."""

import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from command_line import run as command
from command_line import run_in_this_process, wait_for
from configurations import SMALL_SWEEP
from processes import Forked, program

from citrus_lirpa.errors import ConfigError
from citrus_lirpa.runs import sweep
from citrus_lirpa.runs.export import FORMATS
from citrus_lirpa.runs.folder import RunFolder
from citrus_lirpa.training import checkpoint
from citrus_lirpa.training.config import resolve
from citrus_lirpa.training.toml import parse_override


def written(folder: Path, text: str) -> Path:
    path = folder / "group.toml"
    path.write_text(text, encoding="utf-8")
    return path


def expanded(folder: Path, text: str) -> list[sweep.Run]:
    return sweep.expand(sweep.read(written(folder, text)))


# -- from the file to the runs --------------------------------------------------------

GROUP = """
preset = "digits"
[set]
"train.epochs" = 5
"loss.attack_steps" = 3
[grid]
"train.seed" = [0, 1]
method = ["citrus", "ibp"]
"loss.tau_ratio" = [0.3, 0.5]
"""


def test_every_combination_once_and_options_where_they_are_known(tmp_path):
    found = [(run.name, run.config) for run in expanded(tmp_path, GROUP)]
    short = ["train.epochs=5", "loss.attack_steps=3"]

    def citrus(seed: int, tau: float):
        own = [f"train.seed={seed}", f"loss.tau_ratio={tau}"]
        return resolve(preset="digits", overrides=[*short, *own])

    def ibp(seed: int):
        own = ["train.epochs=5", "loss.name=ibp", f"train.seed={seed}"]
        return resolve(preset="digits", overrides=own)

    assert found == [  # in the order of the file
        ("digits-citrus-seed0-tau_ratio0.3", citrus(0, 0.3)),
        ("digits-citrus-seed0-tau_ratio0.5", citrus(0, 0.5)),
        ("digits-ibp-seed0", ibp(0)),
        ("digits-citrus-seed1-tau_ratio0.3", citrus(1, 0.3)),
        ("digits-citrus-seed1-tau_ratio0.5", citrus(1, 0.5)),
        ("digits-ibp-seed1", ibp(1)),
    ]


def test_names_do_not_depend_on_the_order_or_on_other_values(tmp_path):
    again = """
    [grid]
    "loss.tau_ratio" = [0.5]
    "train.seed" = [1]
    method = ["citrus"]
    preset = ["mnist-0.1", "digits"]
    """
    assert [run.name for run in expanded(tmp_path, again)] == [
        "mnist-0.1-citrus-seed1-tau_ratio0.5", "digits-citrus-seed1-tau_ratio0.5"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("grid", "names"),
    [
        ('"train.eps" = ["8/255", 0.1]', ["digits-eps8_255", "digits-eps0.1"]),
        ('"model.hidden" = [[8], [16, 16]]', ["digits-hidden8", "digits-hidden16_16"]),
        ('"train.precise_bn" = [true, false]', ["digits-precise_bntrue", "digits-precise_bnfalse"]),
        ('"model.name" = ["mlp"]', ["digits-mlp"]),
        ('"loss.name" = ["citrus", "ibp"]', ["digits-citrus", "digits-ibp"]),
        ("train.seed = [3]", ["digits-seed3"]),  # TOML nests it where the quotes are missing
        ("", ["digits"]),
    ],
)
def test_names(tmp_path, grid, names):
    found = expanded(tmp_path, f'preset = "digits"\n[grid]\n{grid}')
    assert [run.name for run in found] == names


def test_several_grids_are_run_one_after_the_other(tmp_path):
    text = """
    preset = "digits"
    [[grid]]
    "loss.reduction" = ["sum", "max"]
    [[grid]]
    method = ["citrus", "ibp"]
    "loss.worst" = [1, 2]
    """
    assert [run.name for run in expanded(tmp_path, text)] == [
        "digits-reductionsum", "digits-reductionmax",
        "digits-citrus-worst1", "digits-citrus-worst2", "digits-ibp",
    ]  # fmt: skip


def test_long_names_are_cut_and_stay_unique(tmp_path):
    layers = [[8] * n for n in (60, 70, 80)]
    found = expanded(tmp_path, f'preset = "digits"\n[grid]\n"model.hidden" = {layers}')
    names = [run.name for run in found]
    assert len(set(names)) == 3 and max(map(len, names)) < 140
    assert all(re.fullmatch(r"digits-hidden[8_]+-[0-9a-f]{8}", name) for name in names)


def test_values_that_a_file_name_cannot_tell_apart_get_a_digest(tmp_path):
    text = 'preset = "digits"\n[grid]\n"train.milestones" = [[3, 4], ["3/4"], [5]]'
    *same, other = (run.name for run in expanded(tmp_path, text))
    assert all(re.fullmatch(r"digits-milestones3_4-[0-9a-f]{8}", name) for name in same)
    assert len(set(same)) == 2 and other == "digits-milestones5"


def test_the_example_of_the_documentation(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "howto" / "sweeps.md").read_text("utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    names = [run.name for run in expanded(tmp_path, text)]
    assert len(names) == 6 and "makes six runs" in page
    assert f"`{names[0]}`" in page
    status, output = run(tmp_path / "group.toml", "--dry-run")
    assert status == 0 and "--time-limit=5" in output


def test_equal_configurations_are_run_once(tmp_path):
    text = 'preset = "digits"\n[grid]\n"train.eps" = [0.1, "1/10", 0.1]\n"train.seed" = [0, 0]'
    assert [run.name for run in expanded(tmp_path, text)] == ["digits-eps0.1-seed0"]


@pytest.mark.parametrize(
    "value", ["a b", "1", "true", '"', "8/255", 0.1, 1e-7, [1, 2], True, ["x"]]
)
def test_values_survive_the_command_line(value):
    one = sweep.Run("one", {"preset": "digits", "a.b": value}, resolve(preset="digits"))
    *_, option, text = one.arguments()
    assert option == "--set" and parse_override(text) == ("a.b", value)


def test_arguments_of_the_evaluation(tmp_path):
    text = 'preset = "digits"\n[eval]\nlimit = 9\n"time-limit" = 5\nclip = true\neps = "8/255"'
    text += '\n"held-out" = false'
    expected = ["--limit=9", "--time-limit=5", "--clip", "--eps=8/255"]
    assert sweep.read(written(tmp_path, text)).eval_arguments() == expected
    status, output = run(tmp_path / "group.toml", "--dry-run")
    assert status == 0 and f" {' '.join(expected)} --data-dir" in output


# -- mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("preset = ", ["not valid TOML", "group.toml"]),
        ("", ["preset is missing", "preset ="]),
        ('preset = "digts"', ["'digts'", "'digits'"]),
        ('preset = ["digits"]', ["['digits']", "[grid]"]),
        ('preset = "digits"\nsett = 1', ["'sett'", "'set'"]),
        ('preset = "digits"\n[set]\nmethod = "ibp"', ["method", "above all tables"]),
        ('preset = "digits"\n[set]\nseed = 1', ["'seed' in [set]", "TABLE.KEY"]),
        ('preset = "digits"\n[set]\n"train.seed" = 2020-01-01', ["train.seed", "a number"]),
        ("[[grid]]\npreset = ['digits']\n[[grid]]\n'train.seed' = [1]", ["preset is missing"]),
        ('preset = "digits"\ngrid = [1]', ["'grid' is not a table"]),
        ('preset = "digits"\n[grid]\nseed = [1]', ["'seed' in [grid]", "TABLE.KEY"]),
        ('preset = "digits"\n[grid]\n"train.seed" = []', ["train.seed", "[]", "list of values"]),
        ('preset = "digits"\n[grid]\n"train.seed" = 1', ["train.seed", "is 1", "list of values"]),
        ('preset = "digits"\n[grid]\npreset = ["digits"]', ["preset", "remove one"]),
        ('preset = "digits"\n[set]\n"train.lr" = 1\n[grid]\n"train.lr" = [1]', ["train.lr", "one"]),
        ('preset = "digits"\n[grid]\n"tran.seed" = [1]', ["'tran'", "'train'"]),
        ('preset = "digits"\nmethod = "ibp"\n[set]\n"loss.tau_ratio" = 1', ["'tau_ratio'", "loss"]),
        ('preset = "digits"\n[grid]\nmethod = ["citrus", "citris"]', ["'citris'", "'citrus'"]),
        ('preset = "digits"\n[grid]\n"train.eps" = [0.1, 7]', ["digits-eps7", "7", "8/255"]),
        ('preset = "digits"\n[grid]\n"loss.tau_ratio" = [0.1, 2.5]', ["tau_ratio2.5", "(0, 1]"]),
        ('preset = "digits"\n[eval]\n"time-limt" = 1', ["'time-limt'", "'time-limit'"]),
        ('preset = "digits"\n[eval]\nlimit = [1, 2]', ["limit", "[1, 2]", "one value"]),
    ],
)
def test_a_mistake_is_named(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        expanded(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def run(*args) -> tuple[int, str]:
    return command("sweep", *args)


@pytest.mark.parametrize(
    ("text", "args", "words"),
    [
        ("[eval]\nmethod = 'crwn'", [], ["[eval]", "'crwn'", "'crown'"]),
        ("[eval]\nlimit = 'ten'", [], ["[eval]", "'ten'"]),
        ("[eval]\n'group-size' = 11\nlimit = 10", [], ["is 11", "2 to 10"]),
        ("[set]\n'model.name' = 'convsmall'", [], ["8x8", "mlp"]),
        ("[grid]\n'train.batch_size' = [64, 2000]", [], ["2000", "1397"]),
        ("[set]\n'data.name' = 'mnist'", ["--no-download", "--data-dir", "none"], ["none"]),
        ("", ["--device", "tpu"], ["'tpu'"]),
    ],
)
def test_nothing_starts_where_a_run_could_not(tmp_path, text, args, words):
    file = written(tmp_path, f"preset = 'digits'\n{text}")
    status, output = run(file, "--out", tmp_path / "out", *args)
    (line,) = output.splitlines()
    assert status in (1, 2) and line.startswith("Error: ")
    assert all(word in line for word in words), line
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_is_not_there(tmp_path):
    status, output = run(tmp_path / "none.toml")
    assert status == 2 and "none.toml" in output


def test_a_dry_run_writes_nothing(tmp_path):
    file = written(tmp_path, GROUP)
    status, output = run(file, "--out", tmp_path / "out", "--dry-run")
    assert status == 0
    lines = output.splitlines()
    assert lines[0] == "[1/6] digits-citrus-seed0-tau_ratio0.3" and len(lines) == 18
    assert sum(line.startswith("  citrus-lirpa train --preset digits") for line in lines) == 6
    assert sum(line.startswith("  citrus-lirpa eval ") for line in lines) == 6
    status, output = run(file, "--dry-run", "--log", "tensorboard", "--launcher", "slurm")
    assert status == 0 and output.count("--log=tensorboard") == 12  # of train and eval
    assert list(tmp_path.iterdir()) == [file]


def test_a_run_is_not_called_like_a_file_of_a_network(tmp_path):
    values = '["a/x.safetensors", "b/y.onnx", "b/z"]'
    found = expanded(tmp_path, f'preset = "digits"\n[grid]\n"train.init_from" = {values}\n')
    names = [run.name for run in found]
    assert [bool(Path(name).suffix) for name in names[:2]] == [True, True]
    assert not {Path(name).suffix for name in names} & set(FORMATS) and len(set(names)) == 3


def test_a_folder_of_another_configuration_stops_the_sweep_before_it_starts(tmp_path):
    file = written(tmp_path, GROUP)
    folder = tmp_path / "out" / "digits-ibp-seed1"
    other = resolve(preset="digits", overrides=["train.epochs=3", "train.milestones=[]"])
    RunFolder(folder).begin(other)
    status, output = run(file, "--out", tmp_path / "out")
    assert status == 2 and str(folder) in output and "citrus there, ibp here" in output
    assert f"than {folder.name} of this sweep" in output and "--out" in output
    assert "train.epochs: 3 there, 5 here" in output and "train.milestones: () there" in output
    assert "train.lr" not in output  # which is equal
    assert list((tmp_path / "out").iterdir()) == [folder]


# -- whole sweeps ---------------------------------------------------------------------


def compared(out: Path) -> list[str]:
    """The runs of the sweep's comparison."""
    tables = json.loads((out / "compare.json").read_text())["tables"]
    return sorted(record["run"] for table in tables for record in table["runs"])


def contents(out: Path) -> dict[Path, bytes]:
    """All files but logs."""
    files = (path for path in out.rglob("*") if path.is_file() and path.suffix != ".log")
    return {path: path.read_bytes() for path in files}


def test_a_sweep_is_interrupted_continued_and_then_finished(tmp_path, monkeypatch):
    """Interrupted in processes of its own; ``test_jobs`` has more of them."""
    text = SMALL_SWEEP.format(epochs=0, grid='"train.epochs" = [150, 1]')
    file = written(tmp_path, text.replace('"train.epochs" = 0\n', ""))
    out = tmp_path / "out"
    names = ["digits-ibp-epochs150", "digits-ibp-epochs1"]
    logs = [out / "logs" / f"{name}.log" for name in names]

    options = ("--out", out, "--processes", 1)
    errors = tmp_path / "errors"
    sweep = Forked(program, "sweep", file, *options, output=tmp_path / "output", errors=errors)
    wait_for(out / names[0] / checkpoint.FILE_NAME, sweep)
    time.sleep(0.2)
    os.kill(sweep.pid, signal.SIGINT)
    assert sweep.wait() == 130
    said = errors.read_text()
    assert said.count("\n") == 1 and "repeat the command" in said
    state = checkpoint.load(out / names[0])[1]
    assert state["step"] > 0 and not state["finished"]
    assert logs[0].read_text().count("$ ") == 1 and not logs[1].exists()

    with monkeypatch.context() as patch:
        patch.setattr("citrus_lirpa.runs.jobs.run_jobs", run_in_this_process)
        status, output = run(file, "--out", out)
    assert status == 0, output
    begun = state["history"]
    for name, epochs in zip(names, (150, 1), strict=True):
        history = checkpoint.load(out / name)[1]["history"]
        assert len(history) == epochs and (epochs == 1 or history[: len(begun)] == begun)
        assert json.loads((out / name / "eval-ibp.json").read_text())["images"] == 10
        events = Counter(re.findall(rf"\] {name}: (\w+) in \d", output))
        assert events == {"trained": 1, "evaluated": 1}
    assert all(re.search(rf"^IBP .* {name} ", output, re.MULTILINE) for name in names)
    assert compared(out) == sorted(names) and (out / "compare.png").is_file()

    before = contents(out)
    status, output = run(file, "--out", out)
    assert status == 0 and output.count("was finished before") == 2
    assert contents(out) == before
    status, output = run(file, "--out", out, "--dry-run")
    assert output == "".join(f"[{i}/2] {name}: finished\n" for i, name in enumerate(names, 1))


def test_a_sweep_evaluates_images_held_out_from_training(tmp_path, one_process):
    text = SMALL_SWEEP.format(epochs=1, grid='"train.seed" = [0]') + "held-out = true\n"
    status, output = run(written(tmp_path, text), "--out", tmp_path / "out")
    assert status == 2 and "[eval] says held-out, but data.held_out is 0" in output
    assert not (tmp_path / "out").exists()
    text = text.replace('"data.limit"', '"data.held_out" = 20\n"data.limit"')
    for again in (False, True):
        status, output = run(written(tmp_path, text), "--out", tmp_path / "out")
        assert status == 0, output
        assert "digits, ε = 0.1, 10 held-out images, groups of 5" in output
        assert ("trained in" in output) == (not again)


@pytest.mark.filterwarnings("ignore:the loss is")
def test_a_failing_run_beside_a_good_one(tmp_path, one_process):
    file = written(tmp_path, SMALL_SWEEP.format(epochs=1, grid='"train.lr" = [1e30, 0.001]'))
    status, output = run(file, "--out", tmp_path / "out")
    assert status == 1
    *_, last = output.splitlines()
    assert "\ndigits-ibp-lr1e+30 failed: Error: the " in output and "became" in output
    assert last.startswith("Error: 1 of 2 runs failed") and str(tmp_path / "out" / "logs") in last
    assert "digits-ibp-lr0.001: evaluated in " in output
    assert compared(tmp_path / "out") == ["digits-ibp-lr0.001"]
