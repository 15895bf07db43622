"""``citrus-lirpa-solver``: the commands of the VNN-LIB 2.0 standard as a program of their own."""

from __future__ import annotations

import click

from .. import __version__
from . import _Commands
from .output import HELP


def _says(text: str):
    def say(ctx: click.Context, param: click.Parameter, given: bool) -> None:
        if given:
            click.echo(text)
            ctx.exit()

    return say


class _Solver(_Commands):
    names = ("verify", "supports")


@click.group(cls=_Solver, context_settings=HELP)
@click.option("--name", is_flag=True, expose_value=False, is_eager=True,
              callback=_says("citrus-lirpa"), help="Print the solver's name.")  # fmt: skip
@click.option("--version", is_flag=True, expose_value=False, is_eager=True,
              callback=_says(__version__), help="Print its version.")  # fmt: skip
def main() -> None:
    """Decide queries in VNN-LIB, about one network or several with tied inputs."""
