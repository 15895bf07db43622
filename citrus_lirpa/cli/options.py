"""Options that several commands share, and what they mean."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from .. import distributed
from ..data.datasets import DATASETS
from ..errors import ConfigError, InputError, Terminated, reason
from ..training import toml as tables
from ..training.interrupts import Termination, terminations
from ..verify import STAGES

_log = logging.getLogger(__name__)


class Number(click.ParamType):
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
eps = click.option(
    "--eps", type=Number(), help="Radius in pixels, as 0.1 or 8/255.  [default: the run's]"
)
clip = click.option(
    "--clip/--no-clip",
    default=False,
    show_default=True,
    help="Whether the attacked image x + u is cut to [0, 1].",
)
dataset = click.option(
    "--dataset",
    type=click.Choice(list(DATASETS)),
    help="Whose images to use; required for an ONNX file.  [default: the run's]",
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
    help="Results and errors only: no bar, and no line for each epoch where there is no terminal.",
)


def evaluated_runs(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command RUN..., evaluated run folders, and --method, which evaluation of each."""
    method = click.option(
        "--method",
        type=click.Choice(list(STAGES)),
        help="Use eval-METHOD.json of each run.  [default: of the strongest method it has]",
    )
    runs = click.argument(
        "folders", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path)
    )
    return runs(method(command))


def requeue(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --requeue, which also decides about its exit status after SIGTERM."""

    @click.option(
        "--requeue",
        is_flag=True,
        help="For a job that a scheduler stops and starts again by the same command: continue "
        "what is there; on SIGTERM save, and exit with 0.",
    )
    @functools.wraps(command)
    def requeueable(*, requeue: bool, **options: Any) -> Any:
        try:
            with terminations():
                return command(requeue=requeue, **options)
        except (Terminated, Termination) as stop:
            message = str(stop) or "stopped by SIGTERM; what was saved is kept"
            if not requeue:
                raise Terminated(message) from None
            click.echo(message, err=True)
            return None

    return requeueable


def show_bars(quiet: bool) -> bool:
    """Whether to draw bars: on a terminal, unless the lines of --verbose would tear them."""
    told = logging.getLogger("citrus_lirpa").isEnabledFor(logging.DEBUG)
    return not (quiet or told) and sys.stderr.isatty() and distributed.leads()


def say(text: str, *, err: bool = False) -> None:
    """Print, where several processes work as one, once."""
    if distributed.leads():
        click.echo(text, err=err)


def join(name: str) -> torch.device:
    """The device of this process, which joins the others where torchrun started several; then
    each takes the GPU of its number."""
    where = choose_device(name)
    if where.type == "cuda" and distributed.launched() > 1:
        here, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if where.index is not None or here >= gpus:
            raise InputError(
                f"process {here} of this machine cannot take a GPU of its own (--device {name}, "
                f"{gpus} found); use --device cuda and torchrun --nproc_per_node={gpus}, or "
                "--device cpu"
            )
        where = torch.device("cuda", here)
        torch.cuda.set_device(where)
    distributed.start(cuda=where.type == "cuda")
    return where


def use_threads(wanted: int) -> None:
    """Compute on ``wanted`` CPU threads, at most as many as cores; on torch's choice for 0."""
    if wanted:
        torch.set_num_threads(min(wanted, os.cpu_count() or wanted))


def choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(name)
        torch.zeros(1, device=wanted).item()  # meta has no values
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device '{name}' cannot be used: {reason(error)}; try --device cpu"
        ) from error
    _log.debug("device %s, %d CPU threads", wanted, torch.get_num_threads())
    return wanted
