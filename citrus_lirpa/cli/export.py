"""``citrus-lirpa export``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .. import data
from ..bounds import lirpa
from ..bounds.box import PIXELS
from ..errors import InputError
from ..runs.networks import FORMATS, load_network, save_network
from ..verify import vnnlib
from .options import FILE, clip, data_dir, dataset, download, eps, network_path
from .output import examples


class Images(click.ParamType):
    """Numbers of images, such as 0,5,7."""

    name = "numbers"

    def convert(self, value, param, ctx) -> list[int]:
        """Read the numbers."""
        if isinstance(value, list):
            return value
        if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", value, re.ASCII):
            self.fail(f"{value!r} is not a list of image numbers such as 0,5,7", param, ctx)
        return [int(number) for number in value.split(",")]


@click.command(
    "export",
    epilog=examples(
        (
            "the weights alone, as safetensors",
            "citrus-lirpa export runs/digits --out digits.safetensors",
        ),
        ("the first 20 test images", "citrus-lirpa export runs/digits --limit 20 --out exported"),
        (
            "what an evaluation left undecided, for another verifier",
            "citrus-lirpa export runs/digits --undecided runs/digits/eval-crown.json "
            "--out exported",
        ),
        (
            "three images of somebody else's network",
            "citrus-lirpa export net.onnx --dataset mnist --eps 0.1 --images 0,5,7 --out exported",
        ),
        (
            "take the other verifier's results",
            "citrus-lirpa eval runs/digits --import-verdicts exported",
        ),
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
@click.option("--images", type=Images(), help="These test images, as 0,5,7.")
@click.option(
    "--undecided",
    type=FILE,
    metavar="EVAL.json",
    help="The images that this evaluation left undecided.",
)
@click.option("--limit", type=click.IntRange(1), help="The first N test images.")
@clip
@click.option("--timeout", default=100.0, show_default=True, help="Seconds for each image.")
@data_dir
@download
def export_command(
    path, own, out, dataset, eps, clip, timeout, data_dir, download, **which
) -> None:
    """Write a network for other programs, or its images' robustness for other verifiers.

    PATH is a run folder, a checkpoint, zoo:NAME or an ONNX file. A folder given as --out
    receives model.onnx, one property for each image that the network classifies correctly
    ("sat": a counterexample exists), and instances.csv, as in VNN-COMP, which α,β-CROWN and
    other verifiers take. Put their results into results.csv there.

    A file given as --out receives the network alone: FILE.onnx; FILE.pt2, a program of
    torch.export, which PyTorch runs without this package; or FILE.safetensors, weights and
    configuration, which eval takes as it takes a run.
    """
    lirpa.load()
    if out.suffix.lower() in FORMATS:
        _check_alone(out)
        save_network(load_network(path, dataset, 0.0, own), out)
        click.echo(f"network: {out}")
        return
    _check_images(**which)
    network = load_network(path, dataset, eps, own)
    box: dict[str, Any] = dict(eps=network.eps, clip=PIXELS if clip else None)
    split = data.load(network.spec.name, train=False, data_dir=data_dir, download=download)
    images = _chosen(**which, available=len(split), dataset=network.spec.name, **box)
    record = vnnlib.export(
        network.model, split, network.spec, out, images=images, timeout=timeout, **box
    )
    click.echo(
        f"{len(record['images'])} properties, ε = {network.eps:.4g}, in {out}; "
        f"{len(record['left_out'])} misclassified images left out\n"
        f"run a verifier on {out / vnnlib.INSTANCES} and put its results into "
        f"{out / vnnlib.RESULTS}"
    )


def _check_alone(out: Path) -> None:
    """Refuse options of images where the network alone is written."""
    given = click.get_current_context().get_parameter_source
    for name in ("eps", "images", "undecided", "limit", "clip", "timeout"):
        if given(name) is not ParameterSource.DEFAULT:
            raise InputError(
                f"--out {out} is a file, for the network alone; --{name} is of images, which "
                "need a folder"
            )


def _check_images(**which: object) -> None:
    """Refuse anything but one choice of images."""
    if sum(choice is not None for choice in which.values()) != 1:
        raise InputError(
            "say which images: one of --images 0,5,7, --undecided FILE and --limit N; or give a "
            f"file as --out ({', '.join(FORMATS)}) for the network alone"
        )


def _chosen(*, images, undecided, limit, available, **box) -> Sequence[int]:
    """Numbers of the images to export."""
    if undecided is not None:
        return vnnlib.undecided_images(undecided, **box)
    return images or range(min(limit, available))
