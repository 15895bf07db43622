"""``citrus-lirpa sweep``."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click
from tqdm.auto import tqdm

from ...bounds import lirpa
from ...errors import CitrusError, InputError
from ...formats.atomic import remove_leftovers
from ...formats.locks import locked
from ...runs import jobs, sweep, sweep_plan
from ...training.setup import choose_device
from ..output import HELP
from .common import protocol_of, show_bars
from .compare import FIGURES, PICTURE, show


def run(eval_command, file, out, count, dry_run, data_dir, download, device, requeue) -> None:
    """Do what ``citrus-lirpa sweep`` is for."""
    lirpa.load()
    out = out or Path("runs") / file.stem
    group = sweep.read(file)
    works = _plan(group, _eval_options(eval_command, group), out, data_dir, download, device)
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


def _eval_options(eval_command: click.Command, group: sweep.Sweep) -> dict[str, Any]:
    """Values of the options of ``eval`` for a sweep."""
    try:
        return eval_command.make_context("eval", ["RUN", *group.eval_arguments()], **HELP).params
    except click.UsageError as error:
        raise InputError(f"[eval]: {error.format_message()}") from None


def _plan(
    group: sweep.Sweep,
    eval_options: dict[str, Any],
    out: Path,
    data_dir: Path,
    download: bool,
    device: str,
) -> list[sweep_plan.Work]:
    runs = sweep.expand(group)
    more = [] if download else ["--no-download"]
    if any(run.config.names_code for run in runs):  # which the file has named
        more.append("--trust-code")
    return sweep_plan.plan(
        runs,
        out,
        protocol=lambda eps: protocol_of(eval_options, eps),
        eval_arguments=group.eval_arguments(),
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
