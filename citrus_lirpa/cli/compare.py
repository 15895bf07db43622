"""``citrus-lirpa compare``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..formats import atomic
from ..reports import compare, pareto
from .options import FILE, evaluated_runs
from .output import Results, examples, results

FIGURES, PICTURE = "compare.json", "compare.png"


@click.command(
    "compare",
    epilog=examples(
        ("side by side, and a Pareto plot", "citrus-lirpa compare runs/citrus runs/ibp"),
        ("a table for a README", "citrus-lirpa compare runs/* --markdown > table.md"),
        (
            "what CROWN-IBP alone proves of them, elsewhere",
            "citrus-lirpa compare runs/* --method crown-ibp --out figures",
        ),
        ("for a script", "citrus-lirpa compare runs/* --json | jq '.tables[].runs[].run'"),
    ),
)
@evaluated_runs
@click.option("--markdown", is_flag=True, help="Print Markdown.")
@click.option(
    "--out",
    type=FILE,
    default=".",
    help="Folder of compare.json and compare.png.  [default: the current one]",
)
@results
def compare_command(folders, method, markdown, out) -> Results:
    """Compare trained and evaluated runs: RUN... are run folders.

    Prints a table as in papers for each data set, ε, number of images, group size and
    clipping. Each is sorted by certified average UAP accuracy (UCert), highest first.
    compare.json holds the figures; compare.png plots UCert against standard accuracy, with the
    Pareto front.
    """
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
