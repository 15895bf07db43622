"""``citrus-lirpa report``."""

from __future__ import annotations

from pathlib import Path

import click

from ..formats import atomic
from ..reports.page import make_page
from ..runs.folder import RunFolder
from .options import FILE, evaluated_runs
from .output import Results, examples, results


@click.command(
    "report",
    epilog=examples(
        ("one run, into its folder", "citrus-lirpa report runs/digits"),
        ("several, compared", "citrus-lirpa report runs/citrus runs/ibp --out figures/runs.html"),
        (
            "somebody else's network",
            "citrus-lirpa eval net.onnx --dataset mnist --eps 0.1 --out judged",
        ),
        ("", "citrus-lirpa report judged"),
    ),
)
@evaluated_runs
@click.option(
    "--out",
    type=FILE,
    help="File to write.  [default: report.html, in the run or, of several, in the current folder]",
)
@results
def report_command(folders, method, out) -> Results:
    """Write runs as one HTML page: RUN... are run folders, or those eval made for ONNX files.

    The page shows what is proved and what attacks leave, stage by stage, the training curves,
    the strongest universal perturbation and what it does to each class, the groups it hurts
    most, and the configuration; of several runs also a table and the Pareto front. It is one
    file that needs no network and no data set, can be printed, and reads on a phone. What a run
    lacks is left out, with the command that makes it.
    """
    page = make_page(folders, method)
    out = out or RunFolder(folders[0] if len(folders) == 1 else Path()).report
    atomic.write_text(out, page)
    click.echo(f"report: {out}")
    return {"runs": [str(folder) for folder in folders], "files": {"report": str(out)}}
