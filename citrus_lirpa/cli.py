"""The command line: parses, calls one function, prints."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch

from . import __version__, _compat, checkpoint, config, data, report, runs, tables, train
from .bounds import METHODS, BoundedNet
from .doctor import run_checks
from .errors import CitrusError, ConfigError, InputError, is_out_of_memory
from .verify import evaluate


class _Group(click.Group):
    """Every error made on purpose becomes one line and its exit status, no traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (CitrusError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            raise _one_line(str(error), getattr(error, "exit_code", 1)) from error
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise _one_line(
                "out of memory; use a smaller batch (--set train.batch_size=... or "
                "--batch-size), or a larger machine",
                1,
            ) from error


def _one_line(message: str, exit_code: int) -> click.ClickException:
    wrapped = click.ClickException(" ".join(message.split()))
    wrapped.exit_code = exit_code
    return wrapped


class _Number(click.ParamType):
    """A number or a fraction such as 8/255."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            return tables.parse_number(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default="data",
    envvar="CITRUS_DATA_DIR",
    show_default=True,
    show_envvar=True,
    help="Folder of the data sets.",
)
download = click.option(
    "--download/--no-download",
    default=True,
    show_default=True,
    help="Fetch a missing data set where there is a network.",
)
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto (a GPU where there is one), cpu, cuda or cuda:N.",
)
quiet = click.option(
    "--quiet",
    is_flag=True,
    help="No progress. Without a terminal, epochs are printed line by line instead of a bar.",
)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="citrus-lirpa")
def main() -> None:
    """Train and certify networks against universal adversarial perturbations.

    \b
    citrus-lirpa train --preset digits --out runs/digits
    citrus-lirpa eval runs/digits --method alpha-crown
    citrus-lirpa doctor
    """


@main.command("train")
@click.option("--preset", help=f"One of: {', '.join(config.presets())}.")
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="A TOML file, such as the config.toml of a run.",
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
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard events.")
@data_dir
@download
@device
@quiet
def train_command(
    preset, file, overrides, mode, out, resume, tensorboard, data_dir, download, device, quiet
) -> None:
    """Train a network.

    Give a --preset, a --config file, or --resume. The run folder receives config.toml,
    checkpoint.pt, metrics.jsonl and curves.png. Stop with Ctrl-C; --resume continues
    exactly where it stopped. If train.epochs is overridden alone, the schedules shrink
    or grow with it.

    \b
    citrus-lirpa train --preset mnist-0.1 --set model.name=convsmall --set train.epochs=20
    citrus-lirpa train --preset digits --set loss.name=ibp --out runs/ibp
    citrus-lirpa train --resume runs/ibp
    """
    _compat.load()
    if resume is not None:
        if preset or file or overrides or mode or out:
            raise InputError("--resume continues a run as it was begun; drop the other options")
        settings, folder = runs.resumable(resume), resume
    else:
        settings = config.resolve(preset=preset, file=file, mode=mode, overrides=overrides)
        folder = out or Path("runs") / f"{preset or file.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    where = _device(device)
    images = data.load(settings.data.name, train=True, data_dir=data_dir, download=download)
    net, loss = runs.build(settings, where)
    train.check_batches(loss, train.limited(images, settings), settings)
    if resume is None:
        runs.start_run(folder, settings)
    torch.set_num_threads(runs.choose_threads(net, settings.train.threads))
    click.echo(
        f"{settings.loss['name']} on {settings.data.name}: {settings.model['name']}, "
        f"ε = {settings.train.eps:.4g}, {settings.train.epochs} epochs, "
        f"batch {settings.train.batch_size}, {where}; run folder {folder}"
    )
    log = report.tensorboard_logger(folder) if tensorboard else None
    bars = _bars(quiet)

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


@main.command("eval")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    default="alpha-crown",
    show_default=True,
    help="Last bound method to try; the cheaper ones always run before it.",
)
@click.option(
    "--eps", type=_Number(), help="Radius in pixels, as 0.1 or 8/255.  [default: the run's]"
)
@click.option("--group-size", default=5, show_default=True, help="Inputs sharing one perturbation.")
@click.option("--limit", type=int, help="Only the first N test images.")
@click.option(
    "--clip/--no-clip",
    default=False,
    show_default=True,
    help="Whether the attacked image x + u is cut to [0, 1].",
)
@click.option(
    "--batch-size",
    default=256,
    show_default=True,
    help="Images bounded at once; halved when memory runs out.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the results.  [default: the run's]"
)
@click.option(
    "--seed",
    type=click.IntRange(0, config.MAX_SEED),
    default=0,
    show_default=True,
    help="Of the attack's random starts.",
)
@data_dir
@download
@device
@quiet
def eval_command(
    path,
    method,
    eps,
    group_size,
    limit,
    clip,
    batch_size,
    out,
    seed,
    data_dir,
    download,
    device,
    quiet,
) -> None:
    """Certify a trained network: PATH is a run folder or a checkpoint file.

    Reports standard accuracy, individually certified accuracy, and the certified average
    UAP accuracy over consecutive groups of test images, between a lower bound (proved) and
    an upper bound (a joint attack). Writes eval-METHOD.json and a picture.

    \b
    citrus-lirpa eval runs/digits --method crown-ibp
    citrus-lirpa eval runs/mnist/checkpoint.pt --eps 0.2 --limit 1000
    """
    _compat.load()
    model, spec, settings = checkpoint.load_model(path)
    where = _device(device)
    images = data.load(settings.data.name, train=False, data_dir=data_dir, download=download)
    net = BoundedNet(model.to(where), torch.zeros(2, *spec.shape, device=where))
    torch.set_num_threads(runs.choose_threads(net, settings.train.threads))
    torch.manual_seed(seed)
    folder = out or checkpoint.find(path).parent
    result = evaluate(
        net,
        images,
        spec,
        eps=settings.train.eps if eps is None else eps,
        method=method,
        group_size=group_size,
        limit=limit,
        clip=(0.0, 1.0) if clip else None,
        batch_size=batch_size,
        progress=_bars(quiet),
    )
    record = {"run": str(path), "data": settings.data.name, **result.record()}
    table = folder / f"eval-{method}.json"
    click.echo(report.evaluation_table(result))
    checkpoint.write_text(table, json.dumps(record, indent=2) + "\n")
    picture = report.plot_uap(result, spec, folder / f"uap-{method}.png")
    click.echo(
        f"results: {table}"
        + (
            f"\npicture: {picture}"
            if picture
            else "\nno perturbation found broke an image: no picture"
        )
    )


@main.command("doctor")
@data_dir
def doctor_command(data_dir) -> None:
    """Versions, device, data sets, and a ten-second check that bounds can be trusted.

    \b
    citrus-lirpa doctor --data-dir data
    """
    for line in run_checks(data_dir):
        click.echo(line)


def _bars(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(name)
        torch.zeros(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:160]
        raise InputError(f"device '{name}' cannot be used: {reason}; try --device cpu") from error
    return wanted
