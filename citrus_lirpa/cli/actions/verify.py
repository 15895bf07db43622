"""``citrus-lirpa verify``."""

from __future__ import annotations

import math
from pathlib import Path

import click

from ...errors import expect, require
from ...formats.query_reader import NonLinearError, read_query
from ...verify.queries.assignment import as_text, save
from ...verify.queries.decide import UNKNOWN, decide


def run(
    path: Path, networks: list[tuple[str, Path]], timeout: float | None, assignments: Path | None
) -> None:
    """Do what ``citrus-lirpa verify`` is for."""
    files = dict(networks)
    require(len(files) == len(networks), "--network names a network twice; give one file for each")
    limit = math.inf if timeout is None else timeout
    expect(limit >= 0, "--timeout", timeout, "seconds")
    try:
        query = read_query(path)
    except NonLinearError as error:
        click.echo(UNKNOWN)
        click.echo(str(error), err=True)
        return
    answer = decide(query, files, limit)
    if answer.values is not None and assignments is not None:
        save(query, answer.values, assignments)
    click.echo(answer.verdict)
    if answer.reason:
        click.echo(answer.reason, err=True)
    if answer.values is not None and assignments is None:
        click.echo(as_text(query, answer.values))
