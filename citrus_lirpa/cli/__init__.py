"""The command line: each command parses, calls one function, prints."""

from __future__ import annotations

from typing import Any

import click

from .. import __version__
from ..errors import CitrusError, is_out_of_memory
from .attack import attack_command
from .compare import compare_command
from .doctor import doctor_command
from .evaluate import eval_command
from .export import export_command
from .sweep import sweep_command
from .train import train_command


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


for command in (
    train_command,
    eval_command,
    compare_command,
    attack_command,
    export_command,
    sweep_command,
    doctor_command,
):
    main.add_command(command)
