"""``citrus-lirpa smooth``."""

from __future__ import annotations

from pathlib import Path

import click

from .choices import SMOOTHING
from .options import dataset, eps, job, network_path, results_out, seed
from .output import Results, command
from .types import Number


@command(
    "smooth",
    ("a first look", "citrus-lirpa smooth runs/digits --sigma 0.25 --n 1000 --limit 100"),
    ("the samples of papers", "citrus-lirpa smooth runs/mnist --sigma 0.25"),
    (
        "a denoiser in front of a network that was trained without noise",
        "citrus-lirpa smooth runs/mnist --sigma 0.25 --denoiser runs/denoiser",
    ),
    ("continue after an interruption", "citrus-lirpa smooth runs/mnist --sigma 0.25 --resume"),
)
@network_path
@click.option("--sigma", type=Number(), required=True, help="Standard deviation of the noise.")
@click.option(
    "--n0", default=SMOOTHING["n0"], show_default=True, help="Samples that choose the class."
)
@click.option(
    "--n", default=SMOOTHING["n"], show_default=True, help="Samples that bound its probability."
)
@click.option(
    "--alpha",
    type=Number(),
    default=SMOOTHING["alpha"],
    show_default=True,
    help="Probability that an image's certificate is wrong, at most.",
)
@click.option(
    "--denoiser",
    metavar="RUN|FILE.onnx|FOLDER",
    type=click.Path(path_type=Path),
    help="What takes the noise off, to put in front: a run of --method denoiser, an ONNX file, or "
    "a folder of a diffusion model from diffusers.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N images.")
@click.option("--held-out", is_flag=True, help="The training images held out by data.held_out.")
@eps
@dataset
@seed("Seed of the noise.")
@results_out
@click.option("--resume", is_flag=True, help="Continue an interrupted certification.")
@job
def smooth_command(**options) -> Results:
    """Certify a network under Gaussian noise, by randomized smoothing (Cohen et al. 2019).

    PATH is a run folder, a checkpoint, zoo:NAME or an ONNX file. For each image it gives the
    class of the smoothed network and an l2 radius within which it does not change. These
    guarantees are probabilistic, and of the smoothed network: they are no UCert. Writes
    smooth-SIGMA.json and a curve of the certified accuracy.
    """
    from .actions import smooth

    return smooth.run(**options)
