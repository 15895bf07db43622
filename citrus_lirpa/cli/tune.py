"""``citrus-lirpa tune``."""

from __future__ import annotations

import click

from .options import data_dir, device, download, requeue
from .output import command
from .types import FILE


@command(
    "tune",
    ("what is varied", "citrus-lirpa tune citrus.toml --dry-run"),
    ("search, as one more worker each time that it is started", "citrus-lirpa tune citrus.toml"),
    ("then look at the fronts", "citrus-lirpa front citrus.toml sabr.toml"),
)
@click.argument("file", metavar="STUDY", type=FILE)
@click.option("--dry-run", is_flag=True, help="Only print what is varied, and where.")
@data_dir
@download
@device
@requeue
def tune_command(**options) -> None:
    """Search for the front of standard accuracy and UCert: STUDY is a TOML file.

    The file names a preset, a method and a number of trials; [set] has values that all trainings
    share, [space] ranges that differ from the method's own, [search] how trials are judged on
    held-out images (options of `citrus-lirpa eval`), [front] how the networks of the front are
    judged in the end. Any number of workers join by the same command, on machines that share
    the study's folder or database. A worker that was killed loses nothing but the steps since
    its last checkpoint; the same command continues. Needs the extra [tune] (Optuna).
    """
    from .actions import tune

    tune.run(**options)
