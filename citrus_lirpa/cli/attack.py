"""``citrus-lirpa attack``."""

from __future__ import annotations

import click

from .choices import SGD_UAP_EPOCHS
from .options import (
    clip,
    data_dir,
    dataset,
    device,
    download,
    eps,
    eps_map,
    network_path,
    norm,
    quiet,
    results_out,
    seed,
)
from .output import Results, command, results
from .types import FILE


@command(
    "attack",
    ("one perturbation for all images", "citrus-lirpa attack runs/digits --eps 0.2"),
    (
        "one for each class, and images cut to [0, 1]",
        "citrus-lirpa attack runs/digits --eps 0.2 --class-wise --clip",
    ),
    (
        "harder: more passes over the images",
        "citrus-lirpa attack zoo:mnist-0.1-convsmall --epochs 50",
    ),
    (
        "let the network see a 3 in images of all other classes",
        "citrus-lirpa attack runs/digits --eps 0.2 --target 3",
    ),
    (
        "a perturbation of another network, tried on this one",
        "citrus-lirpa attack runs/ibp --perturbation runs/digits/uap.pt --out runs/tried",
    ),
    ("for a script", "citrus-lirpa attack runs/digits --json --quiet | jq .fooling_rate"),
)
@network_path
@eps
@eps_map
@norm
@dataset
@click.option("--class-wise", is_flag=True, help="One perturbation for each class.")
@click.option(
    "--target", metavar="CLASS", help="Class that the network is to see in images of all others."
)
@click.option(
    "--perturbation",
    type=FILE,
    help="Craft nothing: try what is in this file (uap.pt or uap-METHOD.npz of a run, .npy). ε is "
    "its largest change of a pixel, or the length of the longest with --norm 2.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "test"]),
    default="train",
    show_default=True,
    help="Images that the perturbation is crafted on; it is always tried on the test images.",
)
@click.option("--limit", type=int, help="Craft on the first N images only.")
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=SGD_UAP_EPOCHS,
    show_default=True,
    help="Passes over the images in each restart.",
)
@clip
@seed("Seed of the random starts and of the batches.")
@results_out
@data_dir
@download
@device
@quiet
@results
def attack_command(**options) -> Results:
    """Craft a universal perturbation: PATH is a run folder, a checkpoint, zoo:NAME or an ONNX file.

    Finds one perturbation of all images, or one of each class, by SGD-UAP, and reports how
    many test images it breaks. Writes uap.pt (the perturbation), uap.json, uap.png, and uap.npz
    for the report. Earlier results of other settings are moved into the folder earlier-N.
    """
    from .actions import attack

    return attack.run(**options)
