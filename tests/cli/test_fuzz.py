"""The command line under nonsense: one line and a status, or the work done; never a traceback."""

import json
import math
import shutil
from pathlib import Path

import command_line
import pytest
import torch
from fuzzing import arguments, explore, sizes
from hypothesis import strategies as st

from citrus_lirpa.cli import COMMANDS

NUMBERS = ["nan", "inf", "-inf", "-1", "0", "1e-9", "1e300", "1" + "0" * 30, "8/255", "1/0", "x",
           "", "0x10", "１", "true", "--", "3.5"]  # fmt: skip
WORDS = ["", "x", "IBP", "ibp ", "../x", "bab;ls", "$(ls)", "\u202e", "-h"]
SETS = ["train.eps=nan", "train.epochs=-1", "train.epochs=1e9", "train.batch_size=0",
        "model.name=x", "model.hidden=[0]", "model.hidden=[1000000000000]",
        "model.hidden=[4294967296]",
        "model.hidden=['a']", "loss.name=3", "loss.tau_ratio=2", "data.limit=1", "data.crop=9",
        "data.crop=3", "data.name=none", "train.seed=-1", "train.seed=99999999999",
        "train.threads=-1", "train.threads=1e6", "train.milestones=[nan]", "train.lr=inf",
        "train.lr=1e30", "train.eps=1/0", "train.init_from=/nowhere", "train.precision=tf32",
        "train.ramp_length=nan", "train.l1=inf", "train.shi=nan", "train.grad_clip=nan",
        "train.schedule=x", "nonsense", "a.b.c=1", "=", "train.=1", ".eps=1", "train.eps",
        "train.eps_factor=inf", "train.milestones=[-1e300]", "train.ramp_start=1e300",
        "data.limit=10000000000000000000000", "train.batch_size=100000000000000000000",
        "loss.partners=1000000", "loss.worst=7", "loss.attack_steps=-2"]  # fmt: skip


def run(*words) -> tuple[int, str]:
    """Status and output; anything but an exit is a traceback."""
    status, output = command_line.run(*words)
    assert status in (0, 1, 2), output
    if status:
        errors = [line for line in output.splitlines() if line.startswith("Error")]
        assert len(errors) == 1, output
    return status, output


@pytest.fixture
def here(tmp_path, monkeypatch, evaluated) -> Path:
    """A folder of many things, in which commands run; "run" is a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CITRUS_DATA_DIR", raising=False)
    shutil.copytree(evaluated, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "garbage").write_bytes(bytes(range(256)))
    (tmp_path / "garbage.onnx").write_bytes(bytes(range(256)))
    (tmp_path / "void").touch()
    (tmp_path / "s.toml").write_text('preset = "digits"\n[grid]\n"train.seed" = [0]\n')
    (tmp_path / "t.toml").write_text(
        'preset = "digits"\ntrials = 1\n[set]\n"data.held_out" = 50\n"train.epochs" = 1\n'
        '"data.limit" = 64\n"model.hidden" = [6]\n"loss.attack_steps" = 1\n'
        '[search]\nmethod = "ibp"\nlimit = 10\n'
    )
    half = (evaluated / "checkpoint.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(half[: len(half) // 2])
    return tmp_path


PATHS = ["missing", "empty", "garbage", "garbage.onnx", "void", "half.pt", "run/config.toml",
         "zoo:x", "zoo:../index", "/dev/null", "s.toml", "run/eval-ibp.json"]  # fmt: skip


def options(good: dict[str, list], bad: dict[str, list]):
    """Words of a command line, by option: mostly absent or good, at most two of them bad."""
    names = sorted({*good, *bad})
    tables = [
        {name: {repr(v): v for v in table.get(name, [None])} for name in names}
        for table in ({name: [None, *good.get(name, [])] for name in names}, bad)
    ]
    tables[1] = {name: table for name, table in tables[1].items() if name in bad}
    drawn = arguments(*tables)
    return drawn.map(
        lambda case: {name: tables[wrong][name][key] for name, (wrong, key) in case.items()}
    )


def line(case: dict, path: str = "PATH") -> list[str]:
    words = [case[path]] if case.get(path) is not None else []
    for name, value in case.items():
        if name != path and value is not None:
            words += [name] if value is True else [name, value]
    return words


SHARED = {
    "--device": ["meta", "cuda:99", "tpu", "", "cpu:7", "mps", "xla", "hpu"],
    "--data-dir": ["garbage", "missing", "/dev/null"],
}
EVAL = (
    {"PATH": ["run"], "--method": ["ibp"], "--relational": ["none"], "--limit": ["10"],
     "--time-limit": ["0.2"], "--no-download": [True], "--quiet": [True]},
    {**SHARED, "PATH": PATHS, "--method": WORDS, "--relational": WORDS, "--time-limit": NUMBERS,
     "--solver": WORDS, "--eps": NUMBERS, "--dataset": [*WORDS, "mnist", "digits"],
     "--group-size": NUMBERS, "--limit": NUMBERS, "--batch-size": NUMBERS,
     "--out": ["garbage", "/dev/null/x", "run"], "--resume": [True],
     "--import-verdicts": PATHS, "--seed": NUMBERS, "--clip": [True], "--held-out": [True],
     "--requeue": [True], "--json": [True], "--verbose": [True]},
)  # fmt: skip
ATTACK = (
    {"PATH": ["run"], "--limit": ["10"], "--epochs": ["1"], "--no-download": [True]},
    {**SHARED, "PATH": PATHS, "--eps": NUMBERS, "--dataset": WORDS, "--split": WORDS,
     "--limit": NUMBERS, "--epochs": ["nan", "-1", "0", "x"], "--seed": NUMBERS,
     "--class-wise": [True], "--clip": [True], "--out": ["garbage", "/dev/null/x"]},
)  # fmt: skip
SMOOTH = (
    {"PATH": ["run"], "--sigma": ["0.1"], "--no-download": [True], "--quiet": [True]},
    {**SHARED, "PATH": PATHS, "--sigma": NUMBERS, "--n0": NUMBERS, "--n": NUMBERS,
     "--alpha": NUMBERS, "--eps": NUMBERS, "--dataset": WORDS, "--limit": NUMBERS,
     "--seed": NUMBERS, "--out": ["garbage", "/dev/null/x"], "--resume": [True],
     "--requeue": [True], "--held-out": [True]},
)  # fmt: skip
EXPORT = (
    {"PATH": ["run"], "--out": ["out"], "--limit": ["3"]},
    {"PATH": PATHS, "--out": ["garbage", "run", "/dev/null/x"], "--images": [*NUMBERS, "0,0",
     "999999999", "5,-1", "1,,2", "0,5,7"], "--undecided": PATHS, "--limit": NUMBERS,
     "--timeout": NUMBERS, "--eps": NUMBERS, "--dataset": WORDS, "--clip": [True],
     "--data-dir": SHARED["--data-dir"]},
)  # fmt: skip
VERIFY = (
    {"PATH": ["garbage"], "--network": ["N=garbage"]},
    {"PATH": PATHS, "--network": ["", "=", "N", "N=", "=garbage", "N=missing", "N=run"],
     "--timeout": NUMBERS, "--assignments": ["garbage", "/dev/null/x"]},
)  # fmt: skip
TRAIN = (
    {"--preset": ["digits"], "--out": ["new"], "--quiet": [True]},
    {**SHARED, "--preset": WORDS, "--config": PATHS, "--method": [*WORDS, "taps", "staps"],
     "--mode": [*WORDS, "paper"], "--resume": PATHS, "--init-from": [*PATHS, "run"],
     "--precision": [*WORDS, "tf32", "bfloat16"], "--log": WORDS, "--requeue": [True],
     "--json": [True], "--out": ["garbage", "run", "/dev/null/x"]},
)  # fmt: skip
COMPARE = ({"PATH": ["run"]}, {"PATH": PATHS, "--method": [*WORDS, "bab"], "--markdown": [True],
                               "--out": ["garbage", "/dev/null/x"]})  # fmt: skip
REPORT = ({"PATH": ["run"], "--json": [True]},
          {"PATH": PATHS, "--method": [*WORDS, "bab"], "--verbose": [True],
           "--out": ["garbage", "/dev/null/x", "run", "empty"]})  # fmt: skip
SWEEP = (
    {"PATH": ["s.toml"], "--dry-run": [True], "--out": ["swept"]},
    {"PATH": [*PATHS[:-2], "run"], "--processes": NUMBERS, "--device": SHARED["--device"],
     "--out": ["garbage", "run"]},
)  # fmt: skip

TUNE = (
    {"PATH": ["t.toml"]},
    {"PATH": [*PATHS, "run"], "--requeue": [True], "--device": SHARED["--device"]},
)
FRONT = (
    {"PATH": ["t.toml"], "--reference": ["0,0"], "--markdown": [True], "--json": [True]},
    {"PATH": [*PATHS, "run"], "--reference": [*NUMBERS, "0.5,x", "2,2", "0.9,0.9", "1,2,3"],
     "--out": ["garbage", "/dev/null/x", "run"]},
)  # fmt: skip
SUGGEST = (
    {"--data": ["digits"], "--out": ["suggested.toml"], "--minutes": ["0.1"]},
    {"--data": [*WORDS, *filter(None, PATHS)], "--method": [*WORDS, "taps"], "--minutes": NUMBERS,
     "--eps": NUMBERS, "--model": WORDS, "--out": ["garbage", "run", "/dev/null/x"]},
)  # fmt: skip


@sizes(20, 120)
def test_eval(cases, here):
    def check(case) -> None:
        shutil.rmtree(here / "results", ignore_errors=True)
        quick = {"--out": "results", "--limit": "10", "--time-limit": "0.2"}
        case = quick | {k: v for k, v in case.items() if v is not None}
        status, _ = run("eval", *line(case))
        if status == 0:
            (record,) = (here / case["--out"]).glob(f"eval-{case.get('--method', 'bab')}.json")
            values = json.loads(record.read_text(), parse_constant=pytest.fail)
            uap = values["uap_accuracy"]
            assert 0 <= uap["certified"] <= uap["attacked"] <= values["standard_accuracy"] <= 1

    explore(cases, check, options(*EVAL))


@sizes(20, 120)
def test_attack(cases, here):
    def check(case) -> None:
        case = {"--out": "results", **{k: v for k, v in case.items() if v is not None}}
        if {"--epochs", "--limit"} - case.keys():  # the whole set, thirty times, is no fuzzing
            case |= {"--epochs": case.get("--epochs", "1"), "--limit": case.get("--limit", "9")}
        if run("attack", *line(case))[0] == 0:
            saved = torch.load(here / case["--out"] / "uap.pt", weights_only=True)
            assert float(saved["u"].abs().max()) <= saved["eps"] * (1 + 1e-6)
            assert math.isfinite(saved["fooling_rate"])

    explore(cases, check, options(*ATTACK))


@sizes(15, 120)
def test_smooth(cases, here):
    def check(case) -> None:
        quick = {"--out": "smoothed", "--limit": "3", "--n0": "5", "--n": "9"}
        case = quick | {k: v for k, v in case.items() if v is not None}
        if all(float(case[key]) < 99 for key in ("--n0", "--n")):
            run("smooth", *line(case))

    explore(cases, check, options(*SMOOTH))


@sizes(25, 150)
def test_export(cases, here):
    def check(case) -> None:
        shutil.rmtree(here / "out", ignore_errors=True)
        run("export", *line(case))

    explore(cases, check, options(*EXPORT))


@sizes(30, 200)
def test_train(cases, here):
    drawn = st.tuples(options(*TRAIN), st.lists(st.sampled_from(SETS), max_size=2))

    def check(case) -> None:
        shutil.rmtree(here / "new", ignore_errors=True)
        run("train", *line(case[0]), *command_line.sets(*TINY, *case[1]))

    explore(cases, check, drawn)


TINY = ["train.epochs=1", "data.limit=64", "model.hidden=[6]", "loss.attack_steps=1"]


@sizes(10, 120)
def test_compare(cases, here):
    explore(cases, lambda case: run("compare", *line(case)) and None, options(*COMPARE))


@sizes(10, 120)
def test_report(cases, here):
    def check(case) -> None:
        case = {"--out": "page.html", **{k: v for k, v in case.items() if v is not None}}
        (here / "page.html").unlink(missing_ok=True)
        if run("report", *line(case))[0] == 0:
            page = (here / case["--out"]).read_text()
            assert page.startswith("<!DOCTYPE html>") and page.endswith("</html>")

    explore(cases, check, options(*REPORT))


@pytest.mark.parametrize(("name", "known"), [("sweep", SWEEP), ("tune", TUNE)])
@sizes(10, 120)
def test_plans(cases, here, name, known):
    def check(case) -> None:
        run(name, *line({**case, "--dry-run": True}))

    explore(cases, check, options(*known))


@sizes(15, 120)
def test_front(cases, here):
    pytest.importorskip("optuna", reason="Optuna is not installed")
    assert run("tune", "t.toml", "--device", "cpu")[0] == 0
    explore(cases, lambda case: run("front", *line(case)) and None, options(*FRONT))


@sizes(10, 120)
def test_suggest(cases, here):
    def check(case) -> None:
        (here / "suggested.toml").unlink(missing_ok=True)
        if run("suggest", *line(case))[0] == 0:
            assert run("train", "--config", case["--out"], "--set", "train.lr=-1")[0] == 2

    explore(cases, check, options(*SUGGEST))


@sizes(10, 120)
def test_verify(cases, here):
    explore(cases, lambda case: run("verify", *line(case)) and None, options(*VERIFY))


@pytest.mark.parametrize("name", ["presets", "models", "config", "supports"])
def test_lists(here, name):
    assert run(name)[0] == run(name, "--json")[0] == (2 if name == "supports" else 0)
    for word in filter(None, [*WORDS, *PATHS]):
        assert (run(name, word)[0] == 2) == (word != "-h"), word


def test_check(here):
    for word in filter(None, [*WORDS, *PATHS]):
        assert run("check", word)[0] in (0, 1, 2), word


def test_completion(here):
    assert run("completion", "zsh")[0] == 0
    for word in WORDS:
        assert (run("completion", word)[0] == 2) == (word != "-h"), word


@pytest.mark.parametrize("words", [["doctor", "--data-dir", "garbage"], [""], ["nothing"], ["--x"]])
def test_doctor_and_no_command(here, words):
    run(*words)


def test_every_command_is_tried_here():
    lists = {"presets", "models", "completion"}
    tried = {"train", "eval", "compare", "report", "attack", "smooth", "sweep", "export", "doctor",
             "tune", "front", "verify", "supports", "check", "config",
             "suggest"}  # fmt: skip
    assert set(COMMANDS) == tried | lists
