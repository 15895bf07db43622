"""``citrus-lirpa front``."""

from __future__ import annotations

import click

from .output import Results, command, results
from .types import FILE, Numbers


@command(
    "front",
    ("one study, or several together", "citrus-lirpa front citrus.toml sabr.toml"),
    (
        "hypervolumes above a point that matters",
        "citrus-lirpa front citrus.toml sabr.toml --reference 0.95,0.8 --out figures",
    ),
    ("train a point again", "citrus-lirpa train --config front/citrus-0007.toml"),
)
@click.argument("files", metavar="STUDY...", nargs=-1, required=True, type=FILE)
@click.option(
    "--reference",
    type=Numbers(),
    default="0,0",
    show_default=True,
    metavar="STD,UCERT",
    help="Shares above which hypervolumes are taken.",
)
@click.option("--markdown", is_flag=True, help="Print Markdown.")
@click.option(
    "--out",
    type=FILE,
    default=".",
    help="Folder of front.json, front.png, front.html and front/.  [default: the current one]",
)
@results
def front_command(**options) -> Results:
    """Compare the fronts of tuned methods: STUDY... are files of citrus-lirpa tune.

    Prints how many trials each study took, its hypervolume, which study owns which part of the
    common front, and which values decide. The figures are those of the judged networks, with
    standard deviations over seeds, where every study has a [front] that is judged; else those of
    the search. front/ gets the configuration of each point of a front, which train takes by
    --config; front.html has everything on one page.
    """
    from .actions import front

    return front.run(**options)
