"""``citrus-lirpa compare``."""

from __future__ import annotations

import click

from .options import FILE, evaluated_runs
from .output import Results, examples, results


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
def compare_command(**options) -> Results:
    """Compare trained and evaluated runs: RUN... are run folders.

    Prints a table as in papers for each data set, ε, number of images, group size and
    clipping. Each is sorted by certified average UAP accuracy (UCert), highest first.
    compare.json holds the figures; compare.png plots UCert against standard accuracy, with the
    Pareto front.
    """
    from .actions import compare

    return compare.run(**options)
