"""``citrus-lirpa train``."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from ... import data, distributed
from ...bounds import lirpa
from ...errors import Interrupted, require
from ...reports import pictures, tables
from ...runs.export import FORMATS
from ...runs.folder import RunFolder
from ...runs.launch import Launch, Observer
from ...runs.training import train_run
from ...training import config, zoo
from ...training.config import RunConfig
from ...training.interrupts import Termination
from ...training.metrics import History
from ...training.setup import join_processes
from ..output import Results
from .common import show_bars, warn


def run(resume, out, log, data_dir, download, device, quiet, requeue, **options) -> Results:
    """Do what ``citrus-lirpa train`` is for."""
    lirpa.load()
    where = join_processes(device)
    settings, run = _requested(resume, out, requeue, options)
    epochs: list[dict[str, Any]] = []
    with _naming_what_is_left(settings, run):
        with distributed.leader_first():
            images = data.load(settings.data.name, train=True, data_dir=data_dir, download=download)
        history = train_run(
            settings,
            images,
            run.path,
            Launch(
                device=where,
                resume=resume is not None,
                requeue=requeue,
                observer=_observer(_first_line(settings, where, run), epochs, quiet),
            ),
            log,
        )
    if history is None:
        return None
    _print_end(run, settings, history, len(epochs), last_line=quiet or show_bars(quiet))
    return _summary(settings, run, history)


@contextlib.contextmanager
def _naming_what_is_left(settings: RunConfig, run: RunFolder) -> Iterator[None]:
    """Say, after a Ctrl-C that no step could finish before, what there is of the run."""
    try:
        yield
    except Termination:
        raise
    except KeyboardInterrupt:
        folder = shlex.quote(str(run.path))
        raise Interrupted(
            f"interrupted; continue with: citrus-lirpa train --resume {folder}{settings.trust}"
            if run.config.is_file()
            else "interrupted before the training began; nothing was written"
        ) from None


def _requested(
    resume: Path | None, out: Path | None, requeue: bool, options: dict[str, Any]
) -> tuple[RunConfig, RunFolder]:
    """Resolve what to train and where, from the options."""
    if resume is not None:
        alone = not requeue and all(value in (None, ()) for value in (out, *options.values()))
        require(alone, "--resume continues a run as it was begun; drop the other options")
        run = RunFolder(resume)
        return run.begun_config(), run
    require(
        out is not None or not requeue, "--requeue needs --out RUN, the same folder at every start"
    )
    names = ("preset", "file", "method", "mode")
    own_model, own_data = options.pop("model"), options.pop("data")
    overrides = [] if own_data is None else [f"data.name={json.dumps(own_data)}"]
    if own_model is not None:
        overrides += ["model.name=own", f"model.source={json.dumps(own_model)}"]
    if (eps_map := options.pop("eps_map")) is not None:
        overrides.append(f"train.eps_map={json.dumps(str(eps_map))}")
    overrides += options.pop("overrides")
    given = {name: options.pop(name) for name in names}
    settings = config.named(config.resolve(**given, overrides=overrides))
    source = given["preset"] or given["file"].stem
    name = distributed.agreed(f"{source}-{time.strftime('%Y%m%d-%H%M%S')}")
    folder = out or Path("runs") / name
    require(
        not zoo.is_name(folder) and folder.suffix.lower() not in FORMATS,
        f"--out {folder} is a name for a network of the zoo or in a file; choose another folder",
    )
    return _overridden(settings, **options), RunFolder(folder)


def _overridden(
    settings: RunConfig, init_from: Path | None, precision: str | None, compile: bool | None
) -> RunConfig:
    """Replace what was given on the command line."""
    if init_from is not None and not zoo.is_name(init_from):
        init_from = init_from.resolve()
    options: dict[str, Any] = {
        "init_from": init_from and str(init_from),
        "precision": precision,
        "compile": compile,
    }
    given = {key: value for key, value in options.items() if value is not None}
    return replace(settings, train=replace(settings.train, **given))


def _observer(first_line: str, epochs: list[dict[str, Any]], quiet: bool) -> Observer:
    """Print the first line and the epochs, which ``epochs`` collects, and draw the curves."""
    bars = show_bars(quiet)

    def on_epoch(record: dict[str, Any]) -> None:
        epochs.append(record)
        if not (bars or quiet):
            click.echo(tables.epoch_line(record))

    return Observer(
        progress=bars,
        on_warning=warn,
        on_start=lambda: click.echo(first_line),
        on_epoch=on_epoch,
        draw=lambda history, run: pictures.plot_curves(history.records, run.curves),
    )


def _first_line(settings: RunConfig, device: torch.device, run: RunFolder) -> str:
    shared = f" over {distributed.size()} processes" if distributed.size() > 1 else ""
    radius = tables.radius(settings.train.eps, norm=settings.train.norm)
    return (
        f"{settings.loss['name']} on {settings.data.name}: {settings.model['name']}, "
        f"ε {'up to' if settings.train.eps_map else '='} {radius}, "
        f"{tables.counted(settings.train.epochs, 'epoch')}, "
        f"batch {settings.train.batch_size}{shared}, {device}; run folder {run.path}"
    )


def _print_end(
    run: RunFolder, settings: RunConfig, history: History, trained: int, *, last_line: bool
) -> None:
    """Print what was written where; the last epoch where its line was not printed before."""
    if not trained:
        click.echo("nothing was left to train")
    if last_line or not trained:
        click.echo(tables.epoch_line(history.records[-1]))
    click.echo(f"run folder: {run.path}\ncurves: {run.curves}")
    folder = shlex.quote(str(run.path))
    if settings.denoises:
        sigma = config.make_loss(settings.loss, settings.train).sigma
        smooth = f"citrus-lirpa smooth RUN --sigma {sigma:g} --denoiser {folder}"
        click.echo(f"put it in front of a network with: {smooth}")
    else:
        click.echo(f"certify it with: citrus-lirpa eval {folder}{settings.trust}")


def _summary(settings: RunConfig, run: RunFolder, history: History) -> Results:
    return {
        "run": str(run.path),
        "method": settings.loss["name"],
        "data": settings.data.name,
        "model": settings.model["name"],
        "eps": settings.train.eps,
        "epochs": len(history.records),
        "seconds": round(sum(record["seconds"] for record in history.records), 3),
        "last_epoch": history.records[-1],
        "files": {"curves": str(run.curves)},
    }
