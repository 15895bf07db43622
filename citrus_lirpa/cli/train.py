"""``citrus-lirpa train``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from .choices import DATASETS, METHODS, MODES, PRECISIONS, PRESETS
from .options import job, log, own_model, trust_code
from .output import Results, command
from .types import FILE, Data


def _complete(names: Sequence[str]) -> Callable[..., list[str]]:
    """Complete a name in the shell."""
    return lambda ctx, param, incomplete: [n for n in names if n.startswith(incomplete)]


@command(
    "train",
    ("the demo: under a minute", "citrus-lirpa train --preset digits --out runs/digits"),
    ("a baseline", "citrus-lirpa train --preset digits --method ibp --out runs/ibp"),
    (
        "the paper's MNIST setting, with a small network and few epochs",
        "citrus-lirpa train --preset mnist-0.1 --set model.name=convsmall --set train.epochs=20",
    ),
    ("continue after an interruption", "citrus-lirpa train --resume runs/ibp"),
    (
        "as a job that a scheduler may stop and start again",
        "citrus-lirpa train --preset digits --out runs/job --requeue",
    ),
    (
        "again, with another seed",
        "citrus-lirpa train --config runs/ibp/config.toml --set train.seed=1 --out runs/ibp-1",
    ),
)
@click.option("--preset", shell_complete=_complete(PRESETS), help=f"One of: {', '.join(PRESETS)}.")
@click.option("--config", "file", type=FILE, help="A TOML file, such as the config.toml of a run.")
@click.option(
    "--method",
    shell_complete=_complete(METHODS),
    help=f"One of: {', '.join(METHODS)}.  [default: citrus]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    help="Override one value; may be given again. Example: --set loss.tau_ratio=0.5",
)
@click.option(
    "--mode",
    type=click.Choice(MODES),
    help="paper: batches of 5, every pair. large: big batches, cyclic partners. fast: as large, "
    "with two partners and one attack step.",
)
@click.option(
    "--out", type=FILE, help="Run folder, new or empty.  [default: runs/PRESET-DATE-TIME]"
)
@click.option("--resume", type=FILE, help="Continue this run folder; takes no other configuration.")
@click.option(
    "--init-from",
    type=FILE,
    metavar="RUN",
    help="Begin with the weights of this run, checkpoint or zoo:NAME.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="bfloat16: in attacks only. tf32: in bounds too, on a GPU.  [default: float32]",
)
@click.option(
    "--compile/--no-compile",
    default=None,
    help="Let torch.compile make the kernels: slow to start.  [default: --no-compile]",
)
@log
@own_model
@click.option(
    "--data",
    type=Data(DATASETS),
    metavar="NAME",
    help="Another data set than the preset's, also cifar100 and others of torchvision, or your "
    "own: a folder, FILE.npz or FILE.py:NAME.",
)
@click.option(
    "--eps-map",
    type=FILE,
    metavar="FILE.npy",
    help="The radius of each pixel, channel or feature; train.eps is then the largest.",
)
@trust_code
@job
def train_command(**options) -> Results:
    """Train a network.

    Give a --preset, a --config file, or --resume. A preset holds a recipe for each
    --method. The run folder receives config.toml, checkpoint.pt, metrics.jsonl and
    curves.png. Stop with Ctrl-C; --resume continues exactly where it stopped. If
    you override train.epochs, the milestones and the ramp that you do not override keep their
    share of it. With --requeue and --out, the same command begins the run and continues it.
    """
    from .actions import train

    return train.run(**options)
