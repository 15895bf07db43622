"""``citrus-lirpa doctor``."""

from __future__ import annotations

import click

from ..doctor import run_checks
from .options import data_dir


@click.command("doctor")
@data_dir
def doctor_command(data_dir) -> None:
    """Versions, device, data sets, and a ten-second check that bounds can be trusted.

    \b
    citrus-lirpa doctor --data-dir data
    """
    for line in run_checks(data_dir):
        click.echo(line)
