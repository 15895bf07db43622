"""``citrus-lirpa export``."""

from __future__ import annotations

import re
from pathlib import Path

import click
from click.core import ParameterSource

from .. import data
from ..bounds import lirpa as _compat
from ..bounds.box import PIXELS
from ..errors import InputError
from ..runs import export as networks
from ..runs import networks as subjects
from ..verify import vnnlib
from .options import clip, data_dir, dataset, download, eps
from .output import examples


class Images(click.ParamType):
    """Numbers of images, as 0,5,7."""

    name = "numbers"

    def convert(self, value, param, ctx) -> list[int]:
        if isinstance(value, list):
            return value
        if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", value, re.ASCII):
            self.fail(f"{value!r} is no list of image numbers such as 0,5,7", param, ctx)
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
            "then take the other verifier's results",
            "citrus-lirpa eval runs/digits --import-verdicts exported",
        ),
    ),
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to write, new or empty; or FILE.onnx, .pt2 or .safetensors: the network alone.",
)
@dataset
@eps
@click.option("--images", type=Images(), help="These test images, as 0,5,7.")
@click.option(
    "--undecided",
    type=click.Path(path_type=Path),
    metavar="EVAL.json",
    help="The images that this evaluation left undecided.",
)
@click.option("--limit", type=click.IntRange(1), help="The first N test images.")
@clip
@click.option("--timeout", default=100.0, show_default=True, help="Seconds for each image.")
@data_dir
@download
def export_command(
    path, out, dataset, eps, images, undecided, limit, clip, timeout, data_dir, download
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
    _compat.load()
    if out.suffix.lower() in networks.FORMATS:
        given = click.get_current_context().get_parameter_source
        for name in ("eps", "images", "undecided", "limit", "clip", "timeout"):
            if given(name) is not ParameterSource.DEFAULT:
                raise InputError(
                    f"--out {out} is a file, for the network alone; --{name} is of images, which "
                    "need a folder"
                )
        networks.save_network(subjects.load_subject(path, dataset, eps=0.0), out)
        click.echo(f"network: {out}")
        return
    if sum(choice is not None for choice in (images, undecided, limit)) != 1:
        raise InputError(
            "say which images: one of --images 0,5,7, --undecided FILE and --limit N; or give a "
            f"file as --out ({', '.join(networks.FORMATS)}) for the network alone"
        )
    subject = subjects.load_subject(path, dataset, eps)
    spec, limits = subject.spec, PIXELS if clip else None
    if undecided is not None:
        images = vnnlib.undecided_images(undecided, dataset=spec.name, eps=subject.eps, clip=limits)
    split = data.load(spec.name, train=False, data_dir=data_dir, download=download)
    record = vnnlib.export(
        subject.model,
        split,
        spec,
        out,
        images=images or range(min(limit, len(split))),
        eps=subject.eps,
        clip=limits,
        timeout=timeout,
    )
    click.echo(
        f"{len(record['images'])} properties, ε = {subject.eps:.4g}, in {out}; "
        f"{len(record['left_out'])} misclassified images left out\n"
        f"run a verifier on {out / vnnlib.INSTANCES} and put its results into "
        f"{out / vnnlib.RESULTS}"
    )
