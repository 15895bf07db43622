"""``citrus-lirpa sweep``."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import click
from tqdm.auto import tqdm

from ..bounds import lirpa
from ..errors import CitrusError, InputError
from ..formats.atomic import remove_leftovers
from ..formats.locks import locked
from ..runs import jobs, sweep, sweep_plan
from ..training.setup import choose_device
from .compare import FIGURES, PICTURE, show
from .evaluate import eval_command
from .options import FILE, data_dir, device, download, protocol_of, requeue, show_bars
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
    works = _plan(sweep.read(file), out, data_dir, download, device)
    if dry_run:
        _print_plan(works)
        return
    where = choose_device(device)
    sweep_plan.check_data(works)
    with locked(out, "sweep"):
        remove_leftovers(out, FIGURES, PICTURE)
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


def _plan(
    group: sweep.Sweep, out: Path, data_dir: Path, download: bool, device: str
) -> list[sweep_plan.Work]:
    arguments = group.eval_arguments()
    try:
        options = eval_command.make_context("eval", ["RUN", *arguments], **HELP).params
    except click.UsageError as error:
        raise InputError(f"[eval]: {error.format_message()}") from None
    runs = sweep.expand(group)
    more = [] if download else ["--no-download"]
    if any(run.config.names_code for run in runs):  # which the file has named
        more.append("--trust-code")
    return sweep_plan.plan(
        runs,
        out,
        protocol=lambda eps: protocol_of(options, eps),
        eval_arguments=arguments,
        shared=["--data-dir", str(data_dir), "--device", device, *more],
        source=sweep_plan.Source(data_dir, download),
    )


def _print_plan(works: list[sweep_plan.Work]) -> None:
    for number, work in enumerate(works, 1):
        steps = work.pending()
        click.echo(f"[{number}/{len(works)}] {work.run.name}" + ("" if steps else ": finished"))
        for step in steps:
            arguments = step.command[len(sweep_plan.PROGRAM) :]
            click.echo(f"  {shlex.join(['citrus-lirpa', *arguments])}")


def _run(works: list[sweep_plan.Work], count: int) -> dict[str, str]:
    """All runs, with a bar on a terminal and a line for each event; the failures."""
    numbers = {work.run.name: number for number, work in enumerate(works, 1)}
    with tqdm(total=len(works), unit="run", disable=not show_bars(False)) as bar:

        def say(job: jobs.Job, event: str) -> None:
            with bar.external_write_mode(file=sys.stdout):
                click.echo(f"[{numbers[job.name]}/{len(works)}] {job.name}: {event}")

        return jobs.run_jobs(
            [work.job() for work in works],
            count,
            environment=jobs.environment_for(count),
            say=say,
            ended=bar.update,
        )
