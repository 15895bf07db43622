"""``citrus-lirpa attack``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from .. import data, distributed
from ..attacks import SgdUap, UapResult, try_uap
from ..bounds import lirpa as _compat
from ..bounds.box import PIXELS
from ..bounds.net import BoundedNet
from ..errors import InputError
from ..formats import atomic as files
from ..formats import tensors
from ..formats.locks import locked
from ..reports import tables as report
from ..runs import networks as subjects
from ..runs import perturbations as effects
from ..training import config
from ..verify import fingerprint, fingerprint_of_images
from ..verify import resume as saved
from .options import (
    clip,
    data_dir,
    dataset,
    device,
    download,
    eps,
    join,
    quiet,
    show_bars,
    use_threads,
)
from .output import Results, examples, results, set_aside


@click.command(
    "attack",
    epilog=examples(
        ("one perturbation for all images", "citrus-lirpa attack runs/digits --eps 0.2"),
        (
            "one for each class, and images cut to [0, 1]",
            "citrus-lirpa attack runs/digits --eps 0.2 --class-wise --clip",
        ),
        (
            "harder: more passes over the images",
            "citrus-lirpa attack zoo:mnist-0.1-convsmall --epochs 50",
        ),
        ("for a script", "citrus-lirpa attack runs/digits --json --quiet | jq .fooling_rate"),
    ),
)
@click.argument("path", type=click.Path(path_type=Path))
@eps
@dataset
@click.option("--class-wise", is_flag=True, help="One perturbation for each class.")
@click.option(
    "--split",
    type=click.Choice(["train", "test"]),
    default="train",
    show_default=True,
    help="Images that the perturbation is crafted on; it is always tried on the test images.",
)
@click.option("--limit", type=int, help="Craft on the first N images only.")
@click.option(
    "--epochs", default=SgdUap.epochs, show_default=True, help="Passes over the images, a restart."
)
@clip
@click.option(
    "--seed",
    type=click.IntRange(0, config.MAX_SEED),
    default=0,
    show_default=True,
    help="Of the random starts and of the batches.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the results.  [default: the run's; NAME-eval for zoo:NAME and beside files]",
)
@data_dir
@download
@device
@quiet
@results
def attack_command(
    path,
    eps,
    dataset,
    class_wise,
    split,
    limit,
    epochs,
    clip,
    seed,
    out,
    data_dir,
    download,
    device,
    quiet,
) -> Results:
    """Craft a universal perturbation: PATH is a run folder, a checkpoint, zoo:NAME or an ONNX
    file.

    Finds one perturbation of all images, or one of each class, by SGD-UAP, and tells how
    many test images it breaks. Writes uap.pt (the perturbation), uap.json, uap.png, and uap.npz
    for the report. What it found there with other settings it keeps, in the folder earlier-N.
    """
    _compat.load()
    where = join(device)
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1")
    limits = PIXELS if clip else None
    attack = SgdUap(epochs=epochs, clip=limits, per_class=class_wise)
    subject = subjects.load_subject(path, dataset, eps)
    spec, eps = subject.spec, subject.eps
    with distributed.leader_first():
        test = data.load(spec.name, train=False, data_dir=data_dir, download=download)
        crafted_on = test
        if split == "train":
            crafted_on = data.load(spec.name, train=True, data_dir=data_dir, download=download)
    folder = out or subjects.results_folder(path)
    if distributed.leads():
        click.get_current_context().with_resource(locked(folder, "uap"))
    net = BoundedNet(subject.model.to(where), torch.zeros(2, *spec.shape, device=where))
    use_threads(subject.threads)
    torch.manual_seed(seed)
    settings = {
        "weights": fingerprint(subject.model),
        "pixels": [fingerprint_of_images(images) for images in (crafted_on, test)],
        "eps": eps,
        "clip": limits,
        "class_wise": class_wise,
        "limit": limit,
        "epochs": epochs,
        "seed": seed,
    }
    x = data.centre_crop(crafted_on.pixels(slice(0, limit)), spec)
    crafted = attack(net, x, crafted_on.labels[:limit], eps, progress=show_bars(quiet))
    if not distributed.leads():
        return None
    x = data.centre_crop(test.pixels(slice(None)), spec)
    result = try_uap(net, x, test.labels, crafted.u, clip=limits)
    click.echo(report.uap_table(result, eps, limits, spec))
    shared = {
        "eps": eps,
        "clip": list(limits) if limits else None,
        "dataset": spec.name,
        "fooling_rate": result.fooling_rate,
    }
    record = {
        "run": str(path),
        **shared,
        "crafted_on": {
            "split": split,
            "images": len(crafted.y),
            "fooling_rate": crafted.fooling_rate,
        },
        **_shares(result, spec.class_names if class_wise else None),
        "epochs": epochs,
        "seed": seed,
        "identity": saved.identity(settings),
    }
    written = {
        "perturbation": folder / "uap.pt",
        "results": folder / "uap.json",
        "picture": folder / "uap.png",
        "effects": folder / "uap.npz",
    }
    if saved.results_of(written["results"], settings) is None:
        set_aside(*written.values())
    tensors.save(written["perturbation"], {"u": result.u.cpu(), **shared})
    files.write_text(written["results"], json.dumps(record, indent=2) + "\n")
    effects.of_attack(result, x, eps, limits).save(written["effects"])
    if report.plot_try(result, x, eps, limits, spec, written["picture"]) is None:
        del written["picture"]
    click.echo(
        f"perturbation: {written['perturbation']}\nresults: {written['results']}\n"
        + (
            f"picture: {written['picture']}"
            if "picture" in written
            else "no image was broken: no picture"
        )
    )
    return {**record, "files": {name: str(path) for name, path in written.items()}}


def _shares(result: UapResult, classes: Sequence[str] | None) -> dict[str, Any]:
    """What the perturbation does to the test images, of each class too where they are named."""
    return {
        "test_images": len(result.y),
        "accuracy": {
            "clean": int(result.correct.sum()) / len(result.y),
            "perturbed": int((result.moved == result.y).sum()) / len(result.y),
        },
        "classes": classes
        and {name: result.of_class(k).fooling_rate for k, name in enumerate(classes)},
    }
