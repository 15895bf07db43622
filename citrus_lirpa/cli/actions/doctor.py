"""``citrus-lirpa doctor``."""

from __future__ import annotations

import click

from ...runs.doctor import PASSED, facts, run_checks
from ..output import Results, highlight


def run(data_dir) -> Results:
    """Do what ``citrus-lirpa doctor`` is for."""
    for line in run_checks(data_dir):
        click.echo(highlight(line, {PASSED: "green"}))
    return facts(data_dir)
