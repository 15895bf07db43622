"""The command line for people and machines: examples, JSON, verbosity, colours, exit status."""

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from command_line import process, run, said, sets

from citrus_lirpa import __version__, errors
from citrus_lirpa.cli import COMMANDS, EXIT_STATUS, main
from citrus_lirpa.cli.output import HELP, examples
from citrus_lirpa.models import MODELS
from citrus_lirpa.training import config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")


def streams(*args) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def answer(*args) -> tuple[dict, str]:
    """The one object on stdout, and stderr."""
    status, out, err = streams(*args, "--json")
    assert status == 0, err
    return json.loads(out), err


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict, str]:
    """A small run, what training answered, and what it said."""
    folder = tmp_path_factory.mktemp("output") / "run"
    few = sets("train.epochs=2", "train.eps=0.03", "data.limit=256", "loss.attack_steps=2")
    return folder, *answer("train", "--preset", "digits", *few, "--out", folder)


# -- help ---------------------------------------------------------------------------


def help_of(name: str) -> click.Command:
    return main.get_command(click.Context(main), name)


def examples_in(text: str) -> list[str]:
    lines = [line.strip() for line in text.split("Examples:\n")[1].splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_every_command_parse(name, tmp_path, monkeypatch):
    """Each is one that the command line takes, and stands at the end of the help."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()  # what they suppose
    Path("table.npz").touch()
    status, output = run(name, "--help")
    assert status == 0 and run(name, "-h") == (0, output)
    found = examples_in(output)
    assert len(found) >= 2 and any(f"citrus-lirpa {name}" in line for line in found)
    assert output.rstrip().endswith(found[-1])
    for line in found:
        check_example(line)


def test_examples_of_the_whole_parse():
    _, output = run("--help")
    found = examples_in(output)
    assert len(found) >= 5
    for line in found:
        check_example(line)


def check_example(line: str) -> None:
    inner = re.search(r"\$\((.*)\)", line)  # of a line for a shell's start file
    program, *words = shlex.split(re.split(r"[|>]", inner.group(1) if inner else line)[0])
    assert program == "citrus-lirpa"
    command = help_of(words[0])
    assert command is not None, line
    if "--help" not in words:
        command.make_context(words[0], words[1:], **HELP)  # UsageError where it is none


def test_a_wrong_example_is_found():
    with pytest.raises(click.UsageError):
        check_example("citrus-lirpa eval --metod bab runs/x")
    assert examples(("what", "a"), ("", "b")) == "\b\nExamples:\n  # what\n  a\n  b"


# -- machines -----------------------------------------------------------------------


def test_train_answers_with_its_end(trained):
    folder, record, err = trained
    assert record["run"] == str(folder) and record["epochs"] == 2 and record["method"] == "citrus"
    *_, last = (folder / "metrics.jsonl").read_text().splitlines()
    assert record["last_epoch"] == json.loads(last)
    assert Path(record["files"]["curves"]).is_file()
    assert "epoch 1:" in err and "certify it with" in err


def test_eval_attack_compare_and_report_answer_with_what_they_write(trained, tmp_path):
    folder, *_ = trained
    record, err = answer("eval", folder, "--method", "ibp", "--limit", 20, "--relational", "none")
    written = json.loads((folder / "eval-ibp.json").read_text())
    assert "standard accuracy" in err and {**written, **record} == written | {
        "files": record["files"]
    }
    assert not {"verdicts", "groups", "image_seconds"} & set(record)
    assert set(record["files"]) >= {"results", "stages", "perturbations"}
    assert all(Path(path).is_file() for path in record["files"].values())

    again = answer("eval", folder, "--method", "ibp", "--limit", 20, "--relational", "none",
                   "--requeue")  # fmt: skip
    assert again[0] == record and "finished before" in again[1]

    record, err = answer("attack", folder, "--eps", "0.1", "--epochs", 1, "--limit", 128)
    written = json.loads((folder / "uap.json").read_text())
    assert record == {**written, "files": record["files"]} and "fooled" in err

    record, err = answer("compare", folder, "--out", tmp_path)
    written = json.loads((tmp_path / "compare.json").read_text())
    assert record == {**written, "files": record["files"]} and "UCert" in err

    record, err = answer("report", folder)
    assert record["files"] == {"report": str(folder / "report.html")}


def test_doctor_presets_and_models_answer(tmp_path):
    record, err = answer("doctor", "--data-dir", tmp_path)
    assert record["passed"] is True and record["torch"] == torch.__version__
    assert record["citrus_lirpa"] == __version__ and record["data_sets"]["digits"] == "embedded"
    assert "all checks passed" in err
    record, err = answer("presets")
    assert [preset["name"] for preset in record["presets"]] == config.presets()
    assert [method["name"] for method in record["methods"]] == config.methods()
    for preset in record["presets"]:
        assert preset["eps"] == config.resolve(preset=preset["name"]).train.eps
    record, err = answer("models")
    assert [model["name"] for model in record["models"]] == list(MODELS)
    assert {"width", "linear"} <= set(record["models"][0]["options"])
    methods = {net["name"]: net["method"] for net in record["zoo"]}
    assert methods["zoo:mnist-0.1-convsmall"] == "MTL-IBP"
    assert methods["zoo:mnist-0.1-convsmall-citrus"] == "CITRUS"


def test_a_failure_leaves_stdout_empty(tmp_path):
    for args in (
        ("eval", tmp_path / "none"),
        ("train", "--preset", "digts"),
        ("compare", tmp_path),
    ):
        status, out, err = streams(*args, "--json")
        assert status != 0 and out == "" and err.startswith("Error: ")


def test_presets_and_models_have_one_line_each():
    status, output = run("presets")
    assert status == 0
    for name in (*config.presets(), *config.methods()):
        assert len(re.findall(rf"^  {re.escape(name)}  +\S", output, re.MULTILINE)) == 1, name
    assert re.search(r"^  mnist-0\.1 +mnist, ε = 0\.1, cnn7, 70 epochs", output, re.MULTILINE)
    assert re.search(r"^  sabr +SABR, Müller", output, re.MULTILINE)
    status, output = run("models")
    assert status == 0 and "`" not in output
    for name in (*MODELS, "zoo:mnist-0.1-convsmall"):
        assert len(re.findall(rf"^  {re.escape(name)}  +\S", output, re.MULTILINE)) == 1, name


# -- more and fewer words -----------------------------------------------------------

FEW = ("--method", "ibp", "--relational", "none", "--limit", 10)


def test_verbose_says_what_is_read_and_written(trained, tmp_path):
    folder, *_ = trained
    status, out, err = streams("eval", folder, *FEW, "--out", tmp_path, "--verbose")
    assert status == 0
    for words in (f"citrus-lirpa {__version__}", f"torch {torch.__version__}",
                  f"read {folder / 'checkpoint.pt'}", "digits, test set: 400 images",
                  "images 0 to 9:", f"wrote {tmp_path / 'eval-ibp.json'}",
                  "device cpu"):  # fmt: skip
        assert words in err and words not in out
    status, plain, err = streams("eval", folder, *FEW, "--out", tmp_path)
    assert status == 0 and err == "" and plain.splitlines()[1] == out.splitlines()[1]


def test_quiet_leaves_results_only(trained, tmp_path):
    folder, *_ = trained
    status, out, err = streams("eval", folder, *FEW, "--out", tmp_path, "--quiet", "--json")
    assert (status, err) == (0, "") and json.loads(out)["images"] == 10
    status, out, _ = streams("train", "--preset", "digits", "--quiet", "--out", tmp_path / "run",
                             *sets("train.epochs=2", "data.limit=128"))  # fmt: skip
    assert status == 0 and "epoch 1:" not in out and "epoch 2:" in out
    line = said(*run("eval", folder, *FEW, "--quiet", "--verbose"), 2)
    assert "--quiet and --verbose" in line


# -- colours ------------------------------------------------------------------------

PAINTING = """
import click
from citrus_lirpa import cli, errors

def paint():
    click.echo(cli.output.highlight("UCert 1 %\\nother", {"UCert": "green"}))
    raise errors.InputError("refused")

cli._Commands.get_command = lambda self, ctx, name: click.Command(name, callback=paint)
cli.main(["paint"])
"""


def on_a_terminal(**environment: str) -> str:
    """What a command that prints a table and fails writes to a terminal."""
    mine, theirs = pty.openpty()
    env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    subprocess.run(
        [sys.executable, "-c", PAINTING], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**env, **environment, "TERM": "xterm"}, check=False,
    )  # fmt: skip
    os.close(theirs)
    try:
        return os.read(mine, 4096).decode().replace("\r\n", "\n")
    finally:
        os.close(mine)


def test_a_warning_is_one_line():
    code = (
        "import warnings; from citrus_lirpa.cli import lists, main\n"
        "lists.presets_command.callback = lambda **_: warnings.warn('the loss\\nis large')\n"
        "main(['presets'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "warning: the loss is large\n")


def test_colours_are_for_terminals_and_respect_no_color():
    plain = "UCert 1 %\nother\nError: refused\n"
    for environment in ({}, {"NO_COLOR": ""}):
        green, other, red = on_a_terminal(**environment).splitlines()
        assert green == click.style("UCert 1 %", fg="green", bold=True) and other == "other"
        assert red == f"{click.style('Error:', fg='red', bold=True)} refused"
    assert on_a_terminal(NO_COLOR="1") == plain
    done = process("-c", PAINTING)
    assert done.stdout + done.stderr == plain and done.returncode == 2


# -- exit status --------------------------------------------------------------------


def test_exit_status_of_every_error_is_documented():
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)]
    assert {kind.exit_code for kind in kinds} <= set(EXIT_STATUS)
    shown = " ".join(run("--help")[1].split("Exit status:")[1].split())
    for status, meaning in EXIT_STATUS.items():
        assert f"{status} {meaning}" in shown
        assert f"| {status} | {meaning}" in PAGE.replace("`", "")


def test_exit_status(tmp_path, monkeypatch):
    assert run("presets")[0] == 0
    assert run("eval", tmp_path / "none")[0] == 1
    assert run("train", "--preset", "digts")[0] == 2
    assert run("eval", "--no-such-option")[0] == 2
    assert run("no-such-command")[0] == 2

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "presets", interrupted)
    assert said(*run("presets"), 130) == "Error: interrupted"


# -- completion ---------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(shell):
    if shell == "bash" and subprocess.run(["bash", "--version"], capture_output=True).returncode:
        pytest.skip("no bash")
    status, output = run("completion", shell)
    assert status == 0
    assert f"_CITRUS_LIRPA_COMPLETE={shell}_complete" in output
    assert "citrus-lirpa" in output


def completed(*words: str) -> list[str]:
    complete = ShellComplete(main, {}, "citrus-lirpa", "_CITRUS_LIRPA_COMPLETE")
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]


def test_completion_knows_commands_options_and_names():
    assert completed("e") == ["eval", "export"]
    assert set(completed("")) == set(COMMANDS)
    assert completed("train", "--prec") == ["--precision"]
    assert completed("train", "--preset", "mnist") == ["mnist-0.1", "mnist-0.3"]
    assert completed("train", "--method", "cw") == ["cw-uat"]
    assert completed("eval", "--method", "a") == ["alpha-crown"]
    assert "--version" in completed("--")


@pytest.mark.parametrize(
    ("words", "found"),
    [("ev", "eval"), ("train --preset dig", "digits"), ("smooth --sig", "--sigma")],
)
def test_completion_does_not_import_torch(words, found):
    code = (
        "from citrus_lirpa.cli import main; import sys, atexit\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        "main(prog_name='citrus-lirpa')"
    )
    line = f"citrus-lirpa {words}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "_CITRUS_LIRPA_COMPLETE": "bash_complete", "COMP_WORDS": line,
             "COMP_CWORD": str(len(line.split()) - 1)},
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"plain,{found}", "False"], done.stderr


def test_what_compiled_code_prints_does_not_reach_stdout():
    code = """
import os, click
from citrus_lirpa.cli import main
solve = click.Command("solve", callback=lambda: (os.write(1, b"of the solver"), click.echo("é")))
main.get_command = lambda *_: solve
main(["solve"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "é\n", "")
