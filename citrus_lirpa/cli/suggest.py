"""``citrus-lirpa suggest``."""

from __future__ import annotations

import click

from .choices import DATASETS, METHODS
from .options import data_dir, device, download, own_model
from .output import Results, command, results
from .types import FILE, Data, Number


@command(
    "suggest",
    (
        "a recipe for photographs and a network of your own",
        "citrus-lirpa suggest --data photos --model net.py:Net --out mine.toml",
    ),
    ("then train by it", "citrus-lirpa train --config mine.toml --out runs/mine"),
    (
        "another radius, and an hour and a half",
        "citrus-lirpa suggest --data table.npz --eps 0.05 --minutes 90 --out table.toml",
    ),
)
@click.option(
    "--data",
    type=Data(DATASETS),
    required=True,
    metavar="NAME",
    help="A data set by name, or your own: a folder, FILE.npz or FILE.py:NAME.",
)
@own_model
@click.option(
    "--eps",
    type=Number(),
    help="Radius in pixels, as 0.1 or 8/255.  [default: 0.1 for grey images, 2/255 in colour, "
    "0.02 for tables]",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="citrus",
    show_default=True,
    help="Training method.",
)
@click.option(
    "--minutes", type=float, default=60.0, show_default=True, help="How long training may take."
)
@click.option("--out", type=FILE, required=True, help="The TOML file to write.")
@data_dir
@download
@device
@results
def suggest_command(**options) -> Results:
    """Write a recipe for your own data and network, as a TOML file for `train --config`.

    Looks at the data, takes the recipe of the preset with the nearest images and radius,
    measures how long a step takes here, and fits batch, epochs and the ramp of the radius into
    --minutes. It is a start: compare with other values by `sweep`, or search by `tune`.
    """
    from .actions import suggest

    return suggest.run(**options)
