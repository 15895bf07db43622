"""Kill citrus-lirpa at random moments, start it again by the same command, and compare.

    python benchmarks/kill.py train --kills 30
    python benchmarks/kill.py eval --kills 30 --signal TERM

An undisturbed run says how long the command takes and what it finds. Then processes are started
and killed, each at a moment drawn evenly from that time, and started again, until they come to
the end; then the next folder is begun, until there were as many kills as asked for. After each
kill all that is on the disk must be whole and hold no less than before; at the end of each folder
weights, verdicts and figures must be those of the undisturbed run, and nothing else may be left.
A sweep is killed alone or with the processes it started, in turn. For Linux.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch

from citrus_lirpa.errors import CitrusError
from citrus_lirpa.formats import tensors
from citrus_lirpa.formats.atomic import is_leftover
from citrus_lirpa.training import checkpoint
from citrus_lirpa.training.config import RunConfig

PROGRAM = (sys.executable, "-m", "citrus_lirpa")
SMALL = {"data.limit": 40, "train.batch_size": 20, "model.hidden": [30]}  # two steps an epoch
EVALUATION = {
    "method": "alpha-crown",
    "relational": "io",
    "time_limit": 600,
    "limit": 24,
    "group_size": 4,
    "batch_size": 4,
}
PATIENCE = 600.0  # seconds until a process counts as stuck
REQUEUED = "; what was saved is kept", "continue with", "finished batches are kept", "all is saved"


class Difference(click.ClickException):
    """What a killed and continued command left is not what an undisturbed one leaves."""


@dataclass(frozen=True)
class Work:
    """A command to kill.

    arguments: of the command that begins and continues what is in a folder; saved: how much is
    on the disk there, by file, once all of it was read; found: what it came to.
    """

    arguments: Callable[[Path], list[str]]
    saved: Callable[[Path], dict[str, int]]
    found: Callable[[Path], Any]


@dataclass
class Tally:
    kills: int = 0
    while_writing: int = 0
    before_first_save: int = 0
    folders: int = 0
    seconds: float = 0.0
    statuses: set[int] = field(default_factory=set)


# -- what is on the disk --------------------------------------------------------------


def saved_training(folder: Path) -> dict[str, int]:
    """Steps in the checkpoint, and the epochs in metrics.jsonl; CitrusError where damaged."""
    config, metrics = folder / checkpoint.CONFIG_FILE, folder / "metrics.jsonl"
    if config.exists():
        RunConfig.from_toml(config.read_text("utf-8"), str(config))
    found = {}
    if (folder / checkpoint.FILE_NAME).exists():
        found["steps"] = checkpoint.load(folder)[1]["step"]
    if metrics.exists():
        found["epochs"] = len([json.loads(line) for line in metrics.read_text().splitlines()])
    return found


def saved_evaluation(folder: Path) -> dict[str, int]:
    """Finished batches; all of them where the results are there."""
    for table in folder.glob("*.json"):
        json.loads(table.read_text("utf-8"))
    batches = [tensors.load(file) for file in folder.glob("eval-*.partial/*.pt")]
    if any(folder.glob("eval-*.partial")):
        json.loads(next(folder.glob("eval-*.partial/settings.json")).read_text("utf-8"))
    if any(folder.glob("eval-*.json")):
        return {"batches": sys.maxsize}
    return {"batches": len(batches)} if batches else {}


def saved_sweep(folder: Path) -> dict[str, int]:
    found = {}
    for run in folder.glob("digits-*"):
        for saved in (saved_training, saved_evaluation):
            found |= {f"{run.name} {key}": value for key, value in saved(run).items()}
    return found


def timeless(value: Any) -> Any:
    """``value`` without the entries that tell times."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if "seconds" not in str(k)}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def weights(folder: Path) -> dict[str, Any]:
    """All that a checkpoint holds, tensors as bytes, and the metrics; without times."""
    state = checkpoint.load(folder)[1]
    metrics = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return plain({**timeless(state), "metrics": [timeless(json.loads(line)) for line in metrics]})


def plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def figures(folder: Path, pattern: str) -> dict[str, Any]:
    files = sorted(folder.glob(pattern))
    return {file.name: timeless(json.loads(file.read_text("utf-8"))) for file in files}


# -- the three commands ---------------------------------------------------------------


def settings(values: dict[str, Any]) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def training(_base: Path, epochs: int) -> Work:
    def arguments(folder: Path) -> list[str]:
        own = settings({**SMALL, "train.epochs": epochs})
        return ["train", "--preset", "digits", *own, "--out", str(folder), "--requeue"]

    return Work(arguments, saved_training, weights)


def evaluation(base: Path, epochs: int) -> Work:
    run = base / "trained"
    first = training(base, epochs).arguments(run)
    subprocess.run([*PROGRAM, *first], check=True, capture_output=True)
    own = [f"--{key.replace('_', '-')}={value}" for key, value in EVALUATION.items()]

    def arguments(folder: Path) -> list[str]:
        return ["eval", str(run), *own, "--out", str(folder), "--requeue"]

    return Work(arguments, saved_evaluation, lambda folder: figures(folder, "eval-*.json"))


def sweeping(base: Path, epochs: int) -> Work:
    file = base / "group.toml"
    tables = [
        'preset = "digits"', "[set]", f'"train.epochs" = {epochs}',
        *(f'"{key}" = {value}' for key, value in SMALL.items()),
        "[grid]", '"train.seed" = [0, 1]',
        "[eval]", *(f"{key} = {json.dumps(v)}" for key, v in EVALUATION.items()),
    ]  # fmt: skip
    file.write_text("\n".join(tables) + "\n", encoding="utf-8")

    def arguments(folder: Path) -> list[str]:
        return ["sweep", str(file), "--out", str(folder), "--processes", "2", "--requeue"]

    def found(folder: Path) -> dict[str, Any]:
        runs = {run.name: (weights(run), figures(run, "*.json")) for run in folder.glob("digits-*")}
        return {**without_folders(runs, folder), **figures(folder, "compare.json")}

    return Work(arguments, saved_sweep, found)


def without_folders(value: Any, folder: Path) -> Any:
    """``value`` with ``folder`` taken out of its texts."""
    if isinstance(value, dict):
        return {key: without_folders(v, folder) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(v, folder) for v in value]
    return value.replace(str(folder), "") if isinstance(value, str) else value


WORKS = {"train": training, "eval": evaluation, "sweep": sweeping}


# -- killing --------------------------------------------------------------------------


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def attempt(
    work: Work, folder: Path, moment: float, number: int, *, all_of_them: bool
) -> tuple[int, bool, float]:
    """Start the command and send the signal at ``moment``; status, whether it was sent before
    the end, and the seconds until the end."""
    command = [*PROGRAM, *work.arguments(folder)]
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        sent = False
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            below = children(process.pid) if all_of_them else []
            process.send_signal(number)
            for child in below:
                subprocess.run(["kill", f"-{int(number)}", str(child)], capture_output=True)
            sent = True
            process.wait(PATIENCE)
        output.seek(0)
        text = output.read()
    # -number: also where SIGTERM came before the program, or behind its end
    if process.returncode not in ((0, -number) if sent else (0,)):
        raise Difference(f"status {process.returncode}: {text[-500:]}")
    ended = not (sent and (process.returncode or any(words in text for words in REQUEUED)))
    return process.returncode, not ended, time.monotonic() - begin


def check_disk(work: Work, folder: Path, before: dict[str, int]) -> dict[str, int]:
    """What is saved now, all of it read, and no less than before."""
    try:
        now = work.saved(folder)
    except (CitrusError, ValueError, KeyError) as error:
        raise Difference(f"damaged after a kill: {error}") from error
    lost = {
        key: (value, now.get(key, 0)) for key, value in before.items() if now.get(key, 0) < value
    }
    if lost:
        raise Difference(f"a kill lost what was saved: {lost}")
    return now


def check_end(folder: Path, work: Work, expected: Any) -> None:
    found = without_folders(work.found(folder), folder)
    if found != expected:
        raise Difference(f"{folder} came to another result than the undisturbed run")
    rest = [p for p in folder.rglob("*") if is_leftover(p) or p.suffix in (".lock", ".partial")]
    if rest:
        raise Difference(f"left behind: {rest}")


def bench(name: str, base: Path, *, kills: int, number: int, seed: int, epochs: int) -> Tally:
    """Raises Difference where anything is not as it should be."""
    work, draw, tally = WORKS[name](base, epochs), random.Random(seed), Tally()
    whole = base / "whole"
    _, _, tally.seconds = attempt(work, whole, PATIENCE, number, all_of_them=False)
    expected = without_folders(work.found(whole), whole)
    while tally.kills < kills:
        folder, saved = base / str(tally.folders), {}
        tally.folders += 1
        ended = False
        while not ended:
            moment = draw.uniform(0, tally.seconds) if tally.kills < kills else PATIENCE
            status, killed, _ = attempt(
                work, folder, moment, number, all_of_them=name == "sweep" and tally.kills % 2 == 1
            )
            ended = not killed
            tally.kills += killed
            tally.statuses |= {status} if killed else set()
            tally.while_writing += killed and any(map(is_leftover, folder.rglob("*")))
            saved = check_disk(work, folder, saved)
            tally.before_first_save += killed and not saved
        check_end(folder, work, expected)
        click.echo(f"{name}: {tally.kills} kills, {tally.folders} folders", err=True)
    return tally


@click.command()
@click.argument("name", type=click.Choice(list(WORKS)))
@click.option("--kills", type=click.IntRange(1), default=30, show_default=True)
@click.option("--signal", "sign", type=click.Choice(["KILL", "TERM"]), default="KILL")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the moments.")
@click.option("--epochs", type=click.IntRange(1), default=100, show_default=True)
def main(name, kills, sign, seed, epochs) -> None:
    number = signal.Signals[f"SIG{sign}"]
    with tempfile.TemporaryDirectory() as base:
        tally = bench(name, Path(base), kills=kills, number=number, seed=seed, epochs=epochs)
    click.echo(
        f"{name}: {tally.kills} times SIG{sign} within {tally.seconds:.0f} s (status "
        f"{', '.join(map(str, sorted(tally.statuses)))}), {tally.while_writing} while a file was "
        f"written, {tally.before_first_save} before the first save; {tally.folders} folders came "
        "to the end, all as the undisturbed run"
    )


if __name__ == "__main__":
    main()
