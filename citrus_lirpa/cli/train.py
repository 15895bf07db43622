"""``citrus-lirpa train``."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from .. import data, distributed
from ..bounds import lirpa as _compat
from ..bounds.precision import PRECISIONS, check_device
from ..errors import InputError
from ..reports import tables as report
from ..runs import export as networks
from ..training import allocator, config, loggers, zoo
from ..training import loop as train
from ..training import setup as runs
from ..training.config import RunConfig
from ..training.loop import History
from .options import data_dir, device, download, join, quiet, requeue, say, show_bars, use_threads
from .output import Results, examples, results


def _complete(names: Callable[[], list[str]]) -> Callable[..., list[str]]:
    """Completion of a name in the shell."""
    return lambda ctx, param, incomplete: [n for n in names() if n.startswith(incomplete)]


@click.command(
    "train",
    epilog=examples(
        ("the demo: under a minute", "citrus-lirpa train --preset digits --out runs/digits"),
        ("a baseline", "citrus-lirpa train --preset digits --method ibp --out runs/ibp"),
        (
            "the paper's MNIST setting, with a small network and few epochs",
            "citrus-lirpa train --preset mnist-0.1 --set model.name=convsmall "
            "--set train.epochs=20",
        ),
        ("go on after an interruption", "citrus-lirpa train --resume runs/ibp"),
        (
            "as a job that a scheduler may stop and start again",
            "citrus-lirpa train --preset digits --out runs/job --requeue",
        ),
        (
            "again, with another seed",
            "citrus-lirpa train --config runs/ibp/config.toml --set train.seed=1 --out runs/ibp-1",
        ),
    ),
)
@click.option(
    "--preset",
    shell_complete=_complete(config.presets),
    help=f"One of: {', '.join(config.presets())}.",
)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="A TOML file, such as the config.toml of a run.",
)
@click.option(
    "--method",
    shell_complete=_complete(config.methods),
    help=f"One of: {', '.join(config.methods())}.  [default: citrus]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    help="Override one value; may be given again. Example: --set loss.tau_ratio=0.5",
)
@click.option(
    "--mode",
    type=click.Choice(list(config.MODES)),
    help="paper: batches of 5, every pair. large: big batches, cyclic partners.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run folder, new or empty.  [default: runs/PRESET-DATE-TIME]",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    help="Continue this run folder; takes no other configuration.",
)
@click.option(
    "--init-from",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Begin with the weights of this run, checkpoint or zoo:NAME.",
)
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    help="bfloat16: in attacks only. tf32: in bounds too, on a GPU.  [default: float32]",
)
@click.option(
    "--compile/--no-compile",
    default=None,
    help="Let torch.compile make the kernels: slow to start.  [default: --no-compile]",
)
@click.option(
    "--log",
    type=click.Choice(list(loggers.LOGGERS)),
    multiple=True,
    help="Report epochs there too; may be given again. wandb: sent unless WANDB_MODE=offline.",
)
@data_dir
@download
@device
@quiet
@results
@requeue
def train_command(
    preset,
    file,
    method,
    overrides,
    mode,
    out,
    resume,
    init_from,
    precision,
    compile,
    log,
    data_dir,
    download,
    device,
    quiet,
    requeue,
) -> Results:
    """Train a network.

    Give a --preset, a --config file, or --resume. A preset holds a recipe for each
    --method. The run folder receives config.toml, checkpoint.pt, metrics.jsonl and
    curves.png. Stop with Ctrl-C; --resume continues exactly where it stopped. If
    train.epochs is overridden, milestones and ramp that are not shrink or grow with it. With
    --requeue and --out, the same command begins the run and continues it.
    """
    _compat.load()
    where = join(device)
    if resume is not None:
        given = (preset, file, method, overrides, mode, out, init_from, precision, requeue)
        if any(given) or compile is not None:
            raise InputError("--resume continues a run as it was begun; drop the other options")
        settings, folder = runs.resumable(resume), resume
    else:
        if requeue and out is None:
            raise InputError("--requeue needs --out RUN, the same folder at every start")
        settings = config.resolve(
            preset=preset, file=file, method=method, mode=mode, overrides=overrides
        )
        settings = _with_options(settings, init_from, precision, compile)
        name = f"{preset or file.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        folder = out or Path("runs") / distributed.agreed(name)
        _check_name(folder)
    allocator.keep_freed_memory()
    check_device(settings.train.precision, where)
    with distributed.leader_first():
        images = data.load(settings.data.name, train=True, data_dir=data_dir, download=download)
    net, loss = runs.build(settings, where)
    train.check_batches(loss, train.training_part(images, settings), settings)
    begun = resume is not None or (
        requeue and distributed.agreed(runs.is_begun(folder, settings, "this command's"))
    )
    if not begun:
        train.warm_start(net, settings)
    if distributed.leads():
        click.get_current_context().with_resource(runs.held(folder))
        if not begun:
            runs.start_run(folder, settings)
    use_threads(runs.choose_threads(net, settings.train.threads))
    say(_first_line(settings, where, folder))
    bars = show_bars(quiet)
    trained = 0
    with loggers.opened(log if distributed.leads() else (), folder, settings) as note:

        def on_epoch(record: dict[str, Any]) -> None:
            nonlocal trained
            trained += 1
            note(record)
            if not (bars or quiet):
                click.echo(report.epoch_line(record))

        history = train.fit(
            net, loss, images, settings, folder=folder, progress=bars, on_epoch=on_epoch
        )
    if not distributed.leads():
        return None
    curves = report.plot_curves(history.records, folder / runs.CURVES_FILE)
    if not trained:
        click.echo("nothing was left to train")
    if bars or quiet or not trained:
        click.echo(report.epoch_line(history.records[-1]))
    click.echo(
        f"run folder: {folder}\ncurves: {curves}\n"
        f"certify it with: citrus-lirpa eval {shlex.quote(str(folder))} --method crown-ibp"
    )
    return _summary(settings, folder, history, curves)


def _check_name(folder: Path) -> None:
    """Refuse a run folder that other commands would take for something else."""
    if zoo.is_name(folder) or folder.suffix.lower() in networks.FORMATS:
        raise InputError(
            f"--out {folder} is a name for a network of the zoo or in a file; choose another folder"
        )


def _with_options(
    settings: RunConfig, init_from: Path | None, precision: str | None, compile: bool | None
) -> RunConfig:
    """What was given on the command line, over what ``settings`` say."""
    if init_from is not None and not zoo.is_name(init_from):
        init_from = init_from.resolve()
    options: dict[str, Any] = {
        "init_from": init_from and str(init_from),
        "precision": precision,
        "compile": compile,
    }
    given = {key: value for key, value in options.items() if value is not None}
    return replace(settings, train=replace(settings.train, **given))


def _first_line(settings: RunConfig, device: torch.device, folder: Path) -> str:
    shared = f" over {distributed.size()} processes" if distributed.size() > 1 else ""
    return (
        f"{settings.loss['name']} on {settings.data.name}: {settings.model['name']}, "
        f"ε = {settings.train.eps:.4g}, {settings.train.epochs} epochs, "
        f"batch {settings.train.batch_size}{shared}, {device}; run folder {folder}"
    )


def _summary(settings: RunConfig, folder: Path, history: History, curves: Path) -> Results:
    return {
        "run": str(folder),
        "method": settings.loss["name"],
        "data": settings.data.name,
        "model": settings.model["name"],
        "eps": settings.train.eps,
        "epochs": len(history.records),
        "seconds": round(sum(record["seconds"] for record in history.records), 3),
        "last_epoch": history.records[-1],
        "files": {"curves": str(curves)},
    }
