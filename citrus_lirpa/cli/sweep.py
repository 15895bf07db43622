"""``citrus-lirpa sweep``."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from tqdm.auto import tqdm

from ..bounds import lirpa
from ..errors import CitrusError, InputError
from ..formats import atomic as files
from ..formats.locks import locked
from ..runs import jobs as processes
from ..runs import sweep
from ..runs import sweep_plan as workplan
from ..training.setup import choose_device
from ..verify import Protocol
from .compare import FIGURES, PICTURE, show
from .evaluate import eval_command
from .options import FILE, data_dir, device, download, requeue, show_bars
from .output import HELP, examples


@click.command(
    "sweep",
    epilog=examples(
        ("what would be run", "citrus-lirpa sweep methods.toml --dry-run"),
        (
            "run it, two at once; the same command continues it",
            "citrus-lirpa sweep methods.toml --out runs/methods --processes 2",
        ),
        ("then look at it", "citrus-lirpa report runs/methods/mnist-0.1-*"),
    ),
)
@click.argument("file", type=FILE)
@click.option("--out", type=FILE, help="Folder of the runs.  [default: runs/FILE]")
@click.option(
    "--processes",
    "count",
    type=click.IntRange(1),
    help="Runs at once.  [default: as many as CPU cores; 1 on a GPU]",
)
@click.option("--dry-run", is_flag=True, help="Only print the runs and their commands.")
@data_dir
@download
@device
@requeue
def sweep_command(file, out, count, dry_run, data_dir, download, device, requeue) -> None:
    """Train, evaluate and compare every combination of a TOML FILE.

    The file names a preset, the values that all runs share under [set], lists of values under
    [grid] (any of preset, method and TABLE.KEY), and options of `citrus-lirpa eval` under
    [eval]. All configurations are checked before the first is trained. Stop with Ctrl-C;
    the same command continues, and skips what is finished. Output goes to OUT/logs, the
    comparison to OUT/compare.json and OUT/compare.png.
    """
    lirpa.load()
    out = out or Path("runs") / file.stem
    group = sweep.read(file)
    works = workplan.plan(
        sweep.expand(group),
        out,
        settings=_eval_settings(group.eval_arguments()),
        eval_arguments=group.eval_arguments(),
        shared=_shared(data_dir, download, device),
        source=workplan.Source(data_dir, download),
    )
    if dry_run:
        _print_plan(works)
        return
    where = choose_device(device)
    workplan.check_data(works)
    click.get_current_context().with_resource(locked(out, "sweep"))
    files.remove_leftovers(out, FIGURES, PICTURE)
    count = min(count or (1 if where.type == "cuda" else os.cpu_count() or 1), len(works))
    failures = _run(works, count)
    for name, reason in failures.items():
        click.echo(f"{name} failed: {reason}", err=True)
    finished = [work.folder for work in works if work.run.name not in failures]
    if finished:
        show(finished, out)
    if failures:
        raise CitrusError(
            f"{len(failures)} of {len(works)} runs failed, see {works[0].job().log.parent}; "
            "the same command tries them again"
        )


def _eval_settings(arguments: list[str]) -> dict[str, Any]:
    """The fields of ``Protocol`` that ``eval`` makes of its arguments; InputError as there."""
    try:
        params = eval_command.make_context("eval", ["RUN", *arguments], **HELP).params
    except click.UsageError as error:
        raise InputError(f"[eval]: {error.format_message()}") from None
    return {field.name: params[field.name] for field in fields(Protocol)}


def _shared(data_dir: Path, download: bool, device: str) -> list[str]:
    refused = [] if download else ["--no-download"]
    return ["--data-dir", str(data_dir), "--device", device, *refused]


def _print_plan(works: list[workplan.Work]) -> None:
    for number, work in enumerate(works, 1):
        steps = work.pending()
        click.echo(f"[{number}/{len(works)}] {work.run.name}" + ("" if steps else ": finished"))
        for step in steps:
            arguments = step.command[len(workplan.PROGRAM) :]
            click.echo(f"  {shlex.join(['citrus-lirpa', *arguments])}")


def _run(works: list[workplan.Work], count: int) -> dict[str, str]:
    """All runs, with a bar on a terminal and a line for each event; the failures."""
    numbers = {work.run.name: number for number, work in enumerate(works, 1)}
    with tqdm(total=len(works), unit="run", disable=not show_bars(False)) as bar:

        def say(job: processes.Job, event: str) -> None:
            with bar.external_write_mode(file=sys.stdout):
                click.echo(f"[{numbers[job.name]}/{len(works)}] {job.name}: {event}")

        return processes.run_jobs(
            [work.job() for work in works],
            count,
            environment=processes.environment_for(count),
            say=say,
            ended=bar.update,
        )
