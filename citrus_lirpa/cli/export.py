"""``citrus-lirpa export``."""

from __future__ import annotations

import click

from .options import clip, data_dir, dataset, download, eps, eps_map, network_path
from .output import command
from .types import FILE, Images


@command(
    "export",
    (
        "the weights alone, as safetensors",
        "citrus-lirpa export runs/digits --out digits.safetensors",
    ),
    ("the first 20 test images", "citrus-lirpa export runs/digits --limit 20 --out exported"),
    (
        "what an evaluation left undecided, for another verifier",
        "citrus-lirpa export runs/digits --undecided runs/digits/eval-crown.json --out exported",
    ),
    (
        "three images of somebody else's network",
        "citrus-lirpa export net.onnx --dataset mnist --eps 0.1 --images 0,5,7 --out exported",
    ),
    (
        "whether one perturbation breaks several of five images, for `verify`",
        "citrus-lirpa export runs/digits --uap --limit 5 --out queries",
    ),
    (
        "take the other verifier's results",
        "citrus-lirpa eval runs/digits --import-verdicts exported",
    ),
)
@network_path
@click.option(
    "--out",
    type=FILE,
    required=True,
    help="Folder to write, new or empty; or FILE.onnx, .pt2 or .safetensors: the network alone.",
)
@dataset
@eps
@eps_map
@click.option("--images", type=Images(), help="These test images, as 0,5,7.")
@click.option(
    "--undecided",
    type=FILE,
    metavar="EVAL.json",
    help="The images that this evaluation left undecided.",
)
@click.option("--limit", type=click.IntRange(1), help="The first N test images.")
@clip
@click.option(
    "--vnnlib-version",
    type=click.Choice(["1.0", "2.0"]),
    help="Version of VNN-LIB of the properties.  [default: 1.0, with --uap 2.0]",
)
@click.option(
    "--uap", is_flag=True, help="Write queries about groups of images under one perturbation."
)
@click.option("--group-size", default=5, show_default=True, help="With --uap: images of a group.")
@click.option(
    "--at-least",
    type=click.IntRange(1),
    metavar="M",
    help="With --uap: ask whether at least M images of a group stay right.  [default: every M]",
)
@click.option("--timeout", default=100.0, show_default=True, help="Seconds for each image.")
@data_dir
@download
def export_command(uap, group_size, at_least, **options) -> None:
    """Write a network for other programs, or its images' robustness for other verifiers.

    PATH is a run folder, a checkpoint, zoo:NAME or an ONNX file. A folder given as --out
    receives model.onnx, one property for each image that the network classifies correctly
    ("sat": a counterexample exists), and instances.csv, as in VNN-COMP, which α,β-CROWN and
    other verifiers take. Put their results into results.csv there. With --uap it receives queries
    about groups of images under one perturbation, for verify.

    A file given as --out receives the network alone: FILE.onnx; FILE.pt2, a program of
    torch.export, which PyTorch runs without this package; or FILE.safetensors, weights and
    configuration, which eval takes as it takes a run.
    """
    from .actions import export

    groups = {"group_size": group_size, "at_least": at_least} if uap else None
    export.run(groups=groups, **options)
