"""Options that several commands share, and what they mean."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import torch

from .. import tables
from ..data import DATASETS
from ..errors import ConfigError, InputError


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
    help="No progress. Without a terminal, epochs are printed line by line instead of a bar.",
)


def show_bars(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()


def choose_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(name)
        torch.zeros(1, device=wanted).item()  # meta has no values
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:160]
        raise InputError(f"device '{name}' cannot be used: {reason}; try --device cpu") from error
    return wanted
