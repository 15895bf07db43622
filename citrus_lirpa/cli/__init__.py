"""The command line: each command parses, calls one function, prints."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from .. import __version__
from ..errors import CitrusError, is_out_of_memory

#: Module of each command, imported when it is called, and what it does.
COMMANDS = {
    "train": ("train", "Train a network."),
    "eval": ("evaluate", "Certify a trained network."),
    "compare": ("compare", "Compare trained and evaluated runs."),
    "report": ("report", "Write runs as one HTML page, to be read, printed and sent."),
    "attack": ("attack", "Craft a universal perturbation."),
    "sweep": ("sweep", "Train, evaluate and compare every combination of a TOML file."),
    "export": ("export", "Write a network and its images' robustness as ONNX and VNN-LIB."),
    "doctor": ("doctor", "Versions, device, data sets, and a check of the bounds."),
}


#: Commands that several processes of one job share.
_SHARED = ("train", "eval", "attack")


class _Group(click.Group):
    """Every error made on purpose becomes one line and its exit status, no traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        if (
            name not in _SHARED
            and "RANK" in os.environ
            and os.environ.get("WORLD_SIZE", "1") != "1"
        ):
            raise _one_line(
                f"{name} is the work of one process; leave out torchrun, which is for "
                f"{', '.join(_SHARED)}",
                2,
            )
        module = importlib.import_module(f".{COMMANDS[name][0]}", __package__)
        return getattr(module, f"{name}_command")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

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


class _Line(click.ClickException):
    """An error on one line, which of several processes with the same one only the first says."""

    def show(self, file: Any = None) -> None:
        distributed = sys.modules.get("citrus_lirpa.distributed")
        if distributed is None or not distributed.said(self.message):
            super().show(file)


def _one_line(message: str, exit_code: int) -> click.ClickException:
    wrapped = _Line(" ".join(message.split()))
    wrapped.exit_code = exit_code
    return wrapped


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="citrus-lirpa")
def main() -> None:
    """Train and certify networks against universal adversarial perturbations.

    \b
    citrus-lirpa train --preset digits --out runs/digits
    citrus-lirpa eval runs/digits --method alpha-crown
    citrus-lirpa compare runs/digits runs/ibp
    citrus-lirpa attack runs/digits
    citrus-lirpa doctor
    """
