"""``citrus-lirpa smooth``."""

from __future__ import annotations

import dataclasses

import click

from ...reports import pictures, tables
from ...runs.folder import Outcome
from ...runs.launch import Launch, Observer
from ...runs.networks import Network, evaluation_images, is_trained, results_folder
from ...runs.smoothing import RADII, smooth_run
from ...training.setup import join_processes
from ...verify import Smoothed, Smoothing
from ..output import Results, echo_set_aside
from .common import echo_once, open_network, require_boxes, show_bars

#: Entries of the record with a value for each image.
_LONG = ("predicted", "radius")


def run(
    path, own, dataset, denoiser, out, resume, data_dir, download, device, quiet, requeue, eps,
    **options,
) -> Results:  # fmt: skip
    """Do what ``citrus-lirpa smooth`` is for."""
    where = join_processes(device, share_gpus=True)
    limit, held_out = options.pop("limit"), options.pop("held_out")
    smoothing = Smoothing(**options)
    if requeue and not is_trained(path):
        echo_once(f"the training of {path} is not finished: nothing is certified", err=True)
        return None
    network = open_network(path, dataset, eps, own)
    require_boxes(network, eps)
    images = evaluation_images(network, data_dir, held_out=held_out, download=download)
    images = dataclasses.replace(images, images=images.images[:limit], labels=images.labels[:limit])
    observer = _observer(network, smoothing, quiet)
    launch = Launch(device=where, resume=resume, requeue=requeue, observer=observer)
    folder = out or results_folder(path)
    outcome = smooth_run(network, images, smoothing, folder, launch, denoiser)
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
