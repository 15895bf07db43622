"""``citrus-lirpa eval``."""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from .. import _compat, config, data, files, report, runs, subjects
from ..bounds import METHODS, BoundedNet
from ..verify import evaluate
from .options import (
    Number,
    choose_device,
    data_dir,
    dataset,
    device,
    download,
    quiet,
    show_bars,
)


@click.command("eval")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    default="alpha-crown",
    show_default=True,
    help="Last bound method to try; the cheaper ones always run before it.",
)
@click.option(
    "--eps", type=Number(), help="Radius in pixels, as 0.1 or 8/255.  [default: the run's]"
)
@dataset
@click.option("--group-size", default=5, show_default=True, help="Inputs sharing one perturbation.")
@click.option("--limit", type=int, help="Only the first N test images.")
@click.option(
    "--clip/--no-clip",
    default=False,
    show_default=True,
    help="Whether the attacked image x + u is cut to [0, 1].",
)
@click.option(
    "--batch-size",
    default=256,
    show_default=True,
    help="Images bounded at once; halved when memory runs out.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the results.  [default: the run's; FILE-eval beside FILE.onnx]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, config.MAX_SEED),
    default=0,
    show_default=True,
    help="Of the attack's random starts.",
)
@data_dir
@download
@device
@quiet
def eval_command(
    path,
    method,
    eps,
    dataset,
    group_size,
    limit,
    clip,
    batch_size,
    out,
    seed,
    data_dir,
    download,
    device,
    quiet,
) -> None:
    """Certify a trained network: PATH is a run folder, a checkpoint or an ONNX file.

    Reports standard accuracy, individually certified accuracy, and the certified average
    UAP accuracy over consecutive groups of test images, between a lower bound (proved) and
    an upper bound (a joint attack). Writes eval-METHOD.json and a picture.

    \b
    citrus-lirpa eval runs/digits --method crown-ibp
    citrus-lirpa eval runs/mnist/checkpoint.pt --eps 0.2 --limit 1000
    citrus-lirpa eval net.onnx --dataset mnist --eps 0.1
    """
    _compat.load()
    subject = subjects.load_subject(path, dataset, eps)
    spec = subject.spec
    where = choose_device(device)
    images = data.load(spec.name, train=False, data_dir=data_dir, download=download)
    net = BoundedNet(subject.model.to(where), torch.zeros(2, *spec.shape, device=where))
    torch.set_num_threads(runs.choose_threads(net, subject.threads))
    torch.manual_seed(seed)
    folder = out or subjects.results_folder(path)
    result = evaluate(
        net,
        images,
        spec,
        eps=subject.eps,
        method=method,
        group_size=group_size,
        limit=limit,
        clip=(0.0, 1.0) if clip else None,
        batch_size=batch_size,
        progress=show_bars(quiet),
    )
    record = {"run": subject.name, "data": spec.name, **result.record()}
    table = folder / f"eval-{method}.json"
    click.echo(report.evaluation_table(result))
    files.write_text(table, json.dumps(record, indent=2) + "\n")
    picture = report.plot_uap(result, spec, folder / f"uap-{method}.png")
    click.echo(
        f"results: {table}"
        + (
            f"\npicture: {picture}"
            if picture
            else "\nno perturbation found broke an image: no picture"
        )
    )
