"""``citrus-lirpa train``."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from .. import _compat, allocator, config, data, report, runs, train, zoo
from ..errors import InputError
from ..precision import PRECISIONS, check_device
from .options import choose_device, data_dir, device, download, quiet, show_bars


@click.command("train")
@click.option("--preset", help=f"One of: {', '.join(config.presets())}.")
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="A TOML file, such as the config.toml of a run.",
)
@click.option("--method", help=f"One of: {', '.join(config.methods())}.  [default: citrus]")
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
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard events.")
@data_dir
@download
@device
@quiet
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
    tensorboard,
    data_dir,
    download,
    device,
    quiet,
) -> None:
    """Train a network.

    Give a --preset, a --config file, or --resume. A preset holds a recipe for each
    --method. The run folder receives config.toml, checkpoint.pt, metrics.jsonl and
    curves.png. Stop with Ctrl-C; --resume continues exactly where it stopped. If
    train.epochs is overridden alone, the schedules shrink or grow with it.

    \b
    citrus-lirpa train --preset mnist-0.1 --set model.name=convsmall --set train.epochs=20
    citrus-lirpa train --preset digits --method ibp --out runs/ibp
    citrus-lirpa train --resume runs/ibp
    """
    _compat.load()
    if resume is not None:
        given = (preset, file, method, overrides, mode, out, init_from, precision)
        if any(given) or compile is not None:
            raise InputError("--resume continues a run as it was begun; drop the other options")
        settings, folder = runs.resumable(resume), resume
    else:
        settings = config.resolve(
            preset=preset, file=file, method=method, mode=mode, overrides=overrides
        )
        if init_from is not None and not zoo.is_name(init_from):
            init_from = init_from.resolve()
        options = {
            "init_from": init_from and str(init_from),
            "precision": precision,
            "compile": compile,
        }
        options = {key: value for key, value in options.items() if value is not None}
        settings = replace(settings, train=replace(settings.train, **options))
        folder = out or Path("runs") / f"{preset or file.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    allocator.keep_freed_memory()
    where = choose_device(device)
    check_device(settings.train.precision, where)
    images = data.load(settings.data.name, train=True, data_dir=data_dir, download=download)
    net, loss = runs.build(settings, where)
    train.check_batches(loss, train.training_part(images, settings), settings)
    if resume is None:
        train.warm_start(net, settings)
        runs.start_run(folder, settings)
    torch.set_num_threads(runs.choose_threads(net, settings.train.threads))
    click.echo(
        f"{settings.loss['name']} on {settings.data.name}: {settings.model['name']}, "
        f"ε = {settings.train.eps:.4g}, {settings.train.epochs} epochs, "
        f"batch {settings.train.batch_size}, {where}; run folder {folder}"
    )
    log = report.tensorboard_logger(folder) if tensorboard else None
    bars = show_bars(quiet)

    def on_epoch(record: dict[str, Any]) -> None:
        if log is not None:
            log(record)
        if not (bars or quiet):
            click.echo(report.epoch_line(record))

    history = train.fit(
        net, loss, images, settings, folder=folder, progress=bars, on_epoch=on_epoch
    )
    curves = report.plot_curves(history.records, folder / "curves.png")
    if bars or quiet:
        click.echo(report.epoch_line(history.records[-1]))
    click.echo(
        f"run folder: {folder}\ncurves: {curves}\n"
        f"certify it with: citrus-lirpa eval {folder} --method crown-ibp"
    )
