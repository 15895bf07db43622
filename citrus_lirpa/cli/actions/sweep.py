"""``citrus-lirpa sweep``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from tqdm.auto import tqdm

from ...bounds import lirpa
from ...errors import CitrusError, InputError, require
from ...formats.atomic import remove_leftovers
from ...formats.locks import locked
from ...runs import jobs, slurm, sweep, sweep_plan
from ...training.setup import choose_device, visible_gpus
from ..output import HELP
from .common import protocol_of, show_bars
from .compare import FIGURES, PICTURE, show

#: Takes jobs, ``say`` and ``ended``, and returns the failures, as ``jobs.run_jobs`` does.
Launch = Callable[..., dict[str, str]]


def run(
    eval_command, file, out, count, launcher, slurm_options, dry_run, log, data_dir, download,
    device, requeue,
) -> None:  # fmt: skip
    """Do what ``citrus-lirpa sweep`` is for."""
    lirpa.load()
    require(
        launcher == "slurm" or not slurm_options,
        "--slurm is for --launcher slurm; add it, or drop it",
    )
    out = out or Path("runs") / file.stem
    group = sweep.read(file)
    options = _eval_options(eval_command, group)
    shared = [*(f"--log={name}" for name in log), "--device", device]
    works = _plan(group, options, out, data_dir, download, shared)
    if dry_run:
        _print_plan(works)
        return
    launch = LAUNCHERS[launcher](works, count, out=out, device=device, options=dict(slurm_options))
    sweep_plan.check_data(works)
    with locked(out, "sweep"):
        remove_leftovers(out, FIGURES, PICTURE)
        failures = _run(works, launch)
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


def _on_this_machine(works, count, *, device, **_) -> Launch:
    where = choose_device(device)
    gpus = visible_gpus() if where == torch.device("cuda") else []
    alone = 1 if where.type == "cuda" else os.cpu_count() or 1
    places = jobs.places(min(count or len(gpus) or alone, len(works)), gpus)
    return partial(jobs.run_jobs, environments=places)


def _on_slurm(works, count, *, out, options, **_) -> Launch:
    slurm.check()
    return partial(slurm.run_on_slurm, at_once=count, folder=out / "slurm", options=options)


#: How the runs of a sweep are started.
LAUNCHERS: dict[str, Callable[..., Launch]] = {"local": _on_this_machine, "slurm": _on_slurm}


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
    shared: list[str],
) -> list[sweep_plan.Work]:
    runs = sweep.expand(group)
    more = [] if download else ["--no-download"]
    if any(run.config.names_code for run in runs):  # which the file has named
        more.append("--trust-code")
    return sweep_plan.plan(
        runs,
        out,
        protocol=lambda eps, norm: protocol_of(eval_options, eps, norm),
        eval_arguments=group.eval_arguments(),
        shared=["--data-dir", str(data_dir), *shared, *more],
        source=sweep_plan.Source(data_dir, download),
    )


def _print_plan(works: list[sweep_plan.Work]) -> None:
    for number, work in enumerate(works, 1):
        steps = work.pending()
        click.echo(f"[{number}/{len(works)}] {work.run.name}" + ("" if steps else ": finished"))
        for step in steps:
            arguments = step.command[len(sweep_plan.PROGRAM) :]
            click.echo(f"  {shlex.join(['citrus-lirpa', *arguments])}")


def _run(works: list[sweep_plan.Work], launch: Launch) -> dict[str, str]:
    """All runs, with a bar on a terminal and a line for each event; the failures."""
    numbers = {work.run.name: number for number, work in enumerate(works, 1)}
    with tqdm(total=len(works), unit="run", disable=not show_bars(False)) as bar:

        def say(job: jobs.Job, event: str) -> None:
            with bar.external_write_mode(file=sys.stdout):
                click.echo(f"[{numbers[job.name]}/{len(works)}] {job.name}: {event}")

        return launch([work.job() for work in works], say=say, ended=bar.update)
