"""``citrus-lirpa sweep``."""

from __future__ import annotations

import click

from .choices import LAUNCHERS
from .evaluate import eval_command
from .options import data_dir, device, download, log, requeue
from .output import command
from .types import FILE, Setting


@command(
    "sweep",
    ("what would be run", "citrus-lirpa sweep methods.toml --dry-run"),
    (
        "run it, two at once; the same command continues it",
        "citrus-lirpa sweep methods.toml --out runs/methods --processes 2",
    ),
    (
        "each run as a job of Slurm, with options of sbatch",
        "citrus-lirpa sweep methods.toml --launcher slurm --slurm partition=gpu --slurm "
        "time=4:00:00 --slurm gres=gpu:1",
    ),
    ("then look at it", "citrus-lirpa report runs/methods/mnist-0.1-*"),
)
@click.argument("file", type=FILE)
@click.option("--out", type=FILE, help="Folder of the runs.  [default: runs/FILE]")
@click.option(
    "--processes",
    "count",
    type=click.IntRange(1),
    help="Runs at once.  [default: one for each GPU, else for each CPU core; with slurm all]",
)
@click.option(
    "--launcher",
    type=click.Choice(LAUNCHERS),
    default="local",
    show_default=True,
    help="Where the runs run: in processes on this machine, or each as a job of Slurm.",
)
@click.option(
    "--slurm",
    "slurm_options",
    type=Setting(),
    multiple=True,
    metavar="OPTION=VALUE",
    help="With --launcher slurm: an option of sbatch, such as time=4:00:00 (default 60 minutes); a "
    "job that reaches its time limit is queued again and continues. May be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Only print the runs and their commands.")
@log
@data_dir
@download
@device
@requeue
def sweep_command(**options) -> None:
    """Train, evaluate and compare every combination of a TOML FILE.

    The file names a preset, the values that all runs share under [set], lists of values under
    [grid] (any of preset, method and TABLE.KEY), and options of `citrus-lirpa eval` under
    [eval]. All configurations are checked before the first is trained. Stop with Ctrl-C;
    the same command continues, and skips what is finished. GPUs are dealt out to the runs in
    turn. Output goes to OUT/logs, the comparison to OUT/compare.json and OUT/compare.png.
    """
    from .actions import sweep

    sweep.run(eval_command=eval_command, **options)
