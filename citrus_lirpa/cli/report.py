"""``citrus-lirpa report``."""

from __future__ import annotations

import click

from .options import evaluated_runs
from .output import Results, command, results
from .types import FILE


@command(
    "report",
    ("one run, into its folder", "citrus-lirpa report runs/digits"),
    ("several, compared", "citrus-lirpa report runs/citrus runs/ibp --out figures/runs.html"),
    (
        "somebody else's network",
        "citrus-lirpa eval net.onnx --dataset mnist --eps 0.1 --out judged",
    ),
    ("", "citrus-lirpa report judged"),
)
@evaluated_runs
@click.option(
    "--out",
    type=FILE,
    help="File to write.  [default: report.html, in the run or, of several, in the current folder]",
)
@results
def report_command(**options) -> Results:
    """Write runs as one HTML page: RUN... are run folders, those eval made, or folders of such.

    The page shows what is proved and what attacks leave, stage by stage, the training curves,
    the strongest universal perturbation and what it does to each class, the groups it hurts
    most, and the configuration; of several runs also a table and the Pareto front. It is one
    file that needs no network and no data set, can be printed, and reads on a phone. What a run
    lacks is left out, with the command that makes it.
    """
    from .actions import report

    return report.run(**options)
