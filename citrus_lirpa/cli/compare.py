"""``citrus-lirpa compare``."""

from __future__ import annotations

import click

from .options import evaluated_runs
from .output import Results, command, results
from .types import FILE


@command(
    "compare",
    ("side by side, and a Pareto plot", "citrus-lirpa compare runs/citrus runs/ibp"),
    (
        "beside a network of the package",
        "citrus-lirpa eval zoo:mnist-0.1-convsmall --limit 1000 --out judged",
    ),
    ("", "citrus-lirpa compare runs/citrus judged"),
    ("a table for a README", "citrus-lirpa compare runs/* --markdown > table.md"),
    (
        "mean ± std over the seeds of a sweep, for a paper",
        "citrus-lirpa compare runs/methods --seeds --latex > table.tex",
    ),
    (
        "what CROWN-IBP alone proves of them, elsewhere",
        "citrus-lirpa compare runs/* --method crown-ibp --out figures",
    ),
    ("for a script", "citrus-lirpa compare runs/* --json | jq '.tables[].runs[].run'"),
)
@evaluated_runs
@click.option("--markdown", "form", flag_value="markdown", default="text", help="Print Markdown.")
@click.option("--latex", "form", flag_value="latex", help="Print LaTeX, for booktabs.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV: one table, shares of 1.")
@click.option(
    "--seeds",
    is_flag=True,
    help="One row, mean ± standard deviation, for runs that differ in train.seed only.",
)
@click.option(
    "--out",
    type=FILE,
    default=".",
    help="Folder of compare.json and compare.png.  [default: the current one]",
)
@results
def compare_command(**options) -> Results:
    """Compare trained and evaluated runs: RUN... are run folders, or folders of such.

    Folders that eval made for a network from elsewhere count as run folders. Prints a table as in
    papers for each data set, ε, number of images, group size and clipping. Each is sorted by
    certified average UAP accuracy (UCert), highest first. compare.json holds the figures;
    compare.png plots UCert against standard accuracy of each run, with the Pareto front. A
    pattern such as 'runs/*' names runs too; what is no run is left out.
    """
    from .actions import compare

    return compare.run(**options)
