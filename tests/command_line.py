"""How tests run the command line, and read what it prints and draws."""

import os
import subprocess
import sys
import time
from pathlib import Path

from click.testing import CliRunner
from matplotlib.figure import Figure
from PIL import Image

from citrus_lirpa import imports
from citrus_lirpa.cli import main

ROOT = Path(__file__).parents[1]
PATIENCE = 120.0  # seconds until a process counts as stuck


def run(*args) -> tuple[int, str]:
    """Exit status and everything printed; a traceback fails the test."""
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def sets(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def run_in_this_process(jobs, environments, *, say, ended) -> dict[str, str]:
    """In place of ``run_jobs``: each step is run here, and has the permissions that it asks for."""
    failures = {}
    for job in jobs:
        while job.name not in failures and (step := job.next_step()):
            imports._PERMITTED.clear()
            _, program, name, *arguments = step.command
            assert (program, name) == ("-m", "citrus_lirpa")
            status, output = run(*arguments)
            if status:
                failures[job.name] = output.splitlines()[-1]
            say(job, "failed" if status else f"{step.done} in 0 s")
        ended()
    return failures


def small_run(folder: Path) -> Path:
    """A run of one epoch, with an evaluation by IBP."""
    few = sets("train.epochs=1", "data.limit=64", "loss.attack_steps=1", "model.hidden=[6]")
    assert run("train", "--preset", "digits", *few, "--out", folder, "--quiet")[0] == 0
    options = ("--method", "ibp", "--relational", "none", "--limit", 10)
    assert run("eval", folder, *options)[0] == 0
    return folder


def after(monkeypatch, owner: type, method: str, call: int, number: int) -> None:
    """Send signal ``number`` to this process after a call of a method, once."""
    original, calls = getattr(owner, method), []

    def wrapped(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return result

    monkeypatch.setattr(owner, method, wrapped)


def wait_for(file: Path, *processes: subprocess.Popen) -> None:
    """Until the file is there; fails where a process ends before it."""
    begin = time.monotonic()
    while not file.exists():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() - begin < PATIENCE
        time.sleep(0.02)


def leave_pictures_out(monkeypatch) -> None:
    """Write plain pictures in place of plots, which are drawn but not rendered: that is slow.

    Charts of pages, which are SVG, are rendered.
    """
    picture, render = Image.new("L", (200, 200)), Figure.savefig

    def save(figure, file, **options):
        chart = options.get("format") == "svg"
        return render(figure, file, **options) if chart else picture.save(file, "PNG")

    monkeypatch.setattr(Figure, "savefig", save)


def is_png(path: Path) -> bool:
    with Image.open(path) as picture:
        picture.load()
        return picture.format == "PNG" and min(picture.size) > 100


def said(status: int, output: str, expected: int) -> str:
    """The one line of the error."""
    assert status == expected, output
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert output.endswith(f"{line}\n") and len(line) < 400
    return line


def process(*command) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def on_pretended_gpu(script: Path, folder: Path, *arguments: str, launcher=()) -> None:
    """Run a script in a process of its own: a GPU is pretended to torch from the beginning."""
    tests = ROOT / "tests"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tests)])}
    command = [sys.executable, *launcher, str(script), str(folder), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
