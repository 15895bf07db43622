"""``citrus-lirpa smooth``."""

from __future__ import annotations

import dataclasses

import click

from ..reports import pictures, tables
from ..runs.folder import Outcome
from ..runs.networks import (
    Network,
    evaluation_images,
    is_trained,
    load_network,
    results_folder,
)
from ..runs.observer import Observer
from ..runs.smoothing import RADII, smooth_run
from ..training.setup import join_processes
from ..verify import Smoothed, Smoothing
from .options import (
    Number,
    data_dir,
    dataset,
    device,
    download,
    echo_once,
    eps,
    network_path,
    quiet,
    requeue,
    results_out,
    seed,
    show_bars,
)
from .output import Results, echo_set_aside, examples, results

#: Entries of the record with a value for each image.
_LONG = ("predicted", "radius")


@click.command(
    "smooth",
    epilog=examples(
        ("a first look", "citrus-lirpa smooth runs/digits --sigma 0.25 --n 1000 --limit 100"),
        ("the samples of papers", "citrus-lirpa smooth runs/mnist --sigma 0.25"),
        ("continue after an interruption", "citrus-lirpa smooth runs/mnist --sigma 0.25 --resume"),
    ),
)
@network_path
@click.option("--sigma", type=Number(), required=True, help="Standard deviation of the noise.")
@click.option(
    "--n0", default=Smoothing.n0, show_default=True, help="Samples that choose the class."
)
@click.option(
    "--n", default=Smoothing.n, show_default=True, help="Samples that bound its probability."
)
@click.option(
    "--alpha",
    type=Number(),
    default=Smoothing.alpha,
    show_default=True,
    help="Probability that an image's certificate is wrong, at most.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N images.")
@click.option("--held-out", is_flag=True, help="The training images held out by data.held_out.")
@eps
@dataset
@seed("Seed of the noise.")
@results_out
@click.option("--resume", is_flag=True, help="Continue an interrupted certification.")
@data_dir
@download
@device
@quiet
@results
@requeue
def smooth_command(
    path, own, dataset, out, resume, data_dir, download, device, quiet, requeue, eps, **options
) -> Results:
    """Certify a network under Gaussian noise, by randomized smoothing (Cohen et al. 2019).

    PATH is a run folder, a checkpoint, zoo:NAME or an ONNX file. For each image it gives the
    class of the smoothed network and an l2 radius within which it does not change. These
    guarantees are probabilistic, and of the smoothed network: they are no UCert. Writes
    smooth-SIGMA.json and a curve of the certified accuracy.
    """
    where = join_processes(device)
    limit, held_out = options.pop("limit"), options.pop("held_out")
    smoothing = Smoothing(**options)
    if requeue and not is_trained(path):
        echo_once(f"the training of {path} is not finished: nothing is certified", err=True)
        return None
    network = load_network(path, dataset, eps, own)
    images = evaluation_images(network, data_dir, held_out=held_out, download=download)
    images = dataclasses.replace(images, images=images.images[:limit], labels=images.labels[:limit])
    outcome = smooth_run(
        network,
        images,
        smoothing,
        out or results_folder(path),
        device=where,
        resume=resume,
        requeue=requeue,
        observer=_observer(network, smoothing, quiet),
    )
    return None if outcome is None else _answer(outcome)


def _observer(network: Network, smoothing: Smoothing, quiet: bool) -> Observer:
    def show(found: Smoothed) -> None:
        click.echo(tables.smoothed_table(found, smoothing, RADII, network.eps, network.spec))

    return Observer(
        progress=show_bars(quiet),
        on_set_aside=echo_set_aside,
        on_result=show,
        draw=lambda found, files: pictures.plot_smoothed(
            found, smoothing.sigma, files.paths["curve"]
        ),
    )


def _answer(outcome: Outcome) -> Results:
    files = outcome.files
    before = "" if outcome.new else ", finished before"
    click.echo(f"results: {files.record}{before}\ncurve: {files.paths['curve']}")
    short = {key: value for key, value in outcome.record.items() if key not in _LONG}
    return {**short, "files": files.written()}
