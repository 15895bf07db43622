"""``citrus-lirpa eval``."""

from __future__ import annotations

import click

from .choices import BOUNDS
from .options import dataset, eps_map, job, log, network_path, protocol_options, results_out
from .output import Results, command
from .types import FILE


@command(
    "eval",
    ("a whole test set, with branch and bound", "citrus-lirpa eval runs/digits"),
    (
        "quickly: no branch and bound, and a group stage as quick",
        "citrus-lirpa eval runs/digits --method crown-ibp",
    ),
    (
        "another ε, the first 1,000 images, a minute for each hard group",
        "citrus-lirpa eval runs/mnist --eps 0.2 --limit 1000 --time-limit 60",
    ),
    ("all that can be proved in an hour", "citrus-lirpa eval runs/mnist --total-time 3600"),
    ("somebody else's network", "citrus-lirpa eval net.onnx --dataset cifar10 --eps 2/255"),
    ("with proofs that anyone can check", "citrus-lirpa eval runs/digits --proofs"),
    ("continue after an interruption", "citrus-lirpa eval runs/mnist --resume"),
    ("for a script", "citrus-lirpa eval runs/mnist --json --quiet | jq .uap_accuracy"),
)
@network_path
@protocol_options
@dataset
@results_out
@click.option("--resume", is_flag=True, help="Continue an interrupted evaluation.")
@click.option(
    "--bounds",
    type=click.Choice(BOUNDS),
    default="own",
    show_default=True,
    help="Whose bounds count: own takes this package's for piecewise linear layers, auto-lirpa "
    "those of auto_LiRPA everywhere.",
)
@click.option(
    "--import-verdicts",
    "verdicts",
    type=FILE,
    metavar="FOLDER",
    help="Take the verdicts of another verifier as they are: a folder of `export` with its "
    "results.csv.",
)
@eps_map
@click.option(
    "--proofs",
    is_flag=True,
    help="Write proofs of what is certified, for citrus-lirpa check or anybody's checker.",
)
@log
@job
def eval_command(**options) -> Results:
    """Certify a trained network: PATH is a run folder, a checkpoint, zoo:NAME or an ONNX file.

    Reports standard accuracy, individually certified accuracy, and the certified average
    UAP accuracy over consecutive groups of images, between a lower bound (proved) and
    an upper bound (attacks). Writes eval-METHOD.json, a picture of what settled the images
    and one of the strongest perturbation. Finished batches, and after Ctrl-C or SIGTERM what is
    known of the one in hand, are kept until the end: the same command with --resume continues.
    Earlier results of other settings are moved into the folder earlier-N. With --requeue it
    begins, continues, or says that the evaluation was finished before; it skips networks whose
    training is not finished.
    """
    from .actions import evaluate

    return evaluate.run(**options)
