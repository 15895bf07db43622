"""``citrus-lirpa compare``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from .. import compare, files, pareto
from ..verify import STAGES

FIGURES, PICTURE = "compare.json", "compare.png"


@click.command("compare")
@click.argument(
    "folders", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--method",
    type=click.Choice(list(STAGES)),
    help="Use eval-METHOD.json of each run.  [default: of the strongest method it has]",
)
@click.option("--markdown", is_flag=True, help="Print Markdown.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=".",
    help="Folder of compare.json and compare.png.  [default: the current one]",
)
def compare_command(folders, method, markdown, out) -> None:
    """Compare trained and evaluated runs: RUN... are run folders.

    Prints a table as in papers, the highest certified average UAP accuracy (UCert) first, and
    one for each data set, ε, number of images, group size and clipping. compare.json holds the
    figures, compare.png plots UCert against standard accuracy, with the Pareto front.

    \b
    citrus-lirpa compare runs/citrus runs/ibp
    citrus-lirpa compare runs/* --markdown > table.md
    """
    show(folders, out, method=method, markdown=markdown)


def show(
    folders: Sequence[Path], out: Path, *, method: str | None = None, markdown: bool = False
) -> None:
    """Print the tables of the runs; compare.json and compare.png go into ``out``."""
    runs = compare.read_runs(folders, method)
    click.echo(compare.format_tables(runs, markdown=markdown))
    figures = out / FIGURES
    files.write_text(figures, json.dumps(compare.to_json(runs), indent=2) + "\n")
    picture = pareto.plot_pareto(runs, out / PICTURE)
    click.echo(f"results: {figures}\npicture: {picture}", err=markdown)
