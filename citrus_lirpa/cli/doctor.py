"""``citrus-lirpa doctor``."""

from __future__ import annotations

import click

from ..runs.doctor import PASSED, facts, run_checks
from .options import data_dir
from .output import Results, examples, highlight, results


@click.command(
    "doctor",
    epilog=examples(
        ("is all well here?", "citrus-lirpa doctor"),
        ("with data sets that lie elsewhere", "citrus-lirpa doctor --data-dir /data"),
        ("for a bug report", "citrus-lirpa doctor --json > doctor.json"),
    ),
)
@data_dir
@results
def doctor_command(data_dir) -> Results:
    """Versions, device, data sets, and a ten-second check that bounds can be trusted."""
    for line in run_checks(data_dir):
        click.echo(highlight(line, {PASSED: "green"}))
    return facts(data_dir)
