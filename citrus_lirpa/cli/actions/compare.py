"""``citrus-lirpa compare``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ...formats import atomic
from ...reports import compare, pareto
from ..output import Results

FIGURES, PICTURE = "compare.json", "compare.png"


def run(folders, method, markdown, out) -> Results:
    """Do what ``citrus-lirpa compare`` is for."""
    return show(folders, out, method=method, markdown=markdown)


def show(
    folders: Sequence[Path], out: Path, *, method: str | None = None, markdown: bool = False
) -> dict[str, Any]:
    """Print the tables of runs and write compare.json and compare.png into ``out``."""
    runs = compare.read_runs(folders, method)
    click.echo(compare.format_tables(runs, markdown=markdown))
    figures, record = out / FIGURES, compare.to_json(runs)
    atomic.write_text(figures, json.dumps(record, indent=2) + "\n")
    picture = pareto.plot_pareto(runs, out / PICTURE)
    click.echo(f"results: {figures}\npicture: {picture}", err=markdown)
    return {**record, "files": {"results": str(figures), "picture": str(picture)}}
