"""``citrus-lirpa compare``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ...formats import atomic
from ...reports import compare, compare_tables, pareto
from ..output import Results
from .common import found_runs

FIGURES, PICTURE = "compare.json", "compare.png"


def run(folders, method, form, seeds, out) -> Results:
    """Do what ``citrus-lirpa compare`` is for."""
    return show(found_runs(folders), out, method=method, form=form, seeds=seeds)


def show(
    folders: Sequence[Path],
    out: Path,
    *,
    method: str | None = None,
    form: str = "text",
    seeds: bool = False,
) -> dict[str, Any]:
    """Print the tables of runs and write compare.json and compare.png into ``out``."""
    runs = compare.read_runs(folders, method)
    click.echo(compare_tables.format_tables(runs, form, seeds=seeds))
    figures, record = out / FIGURES, compare_tables.to_json(runs, seeds=seeds)
    atomic.write_json(figures, record)
    picture = pareto.plot_pareto(runs, out / PICTURE)
    click.echo(f"results: {figures}\npicture: {picture}", err=form != "text")
    return {**record, "files": {"results": str(figures), "picture": str(picture)}}
