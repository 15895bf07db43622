"""``citrus-lirpa attack``."""

from __future__ import annotations

import click

from ...bounds import lirpa
from ...bounds.box import PIXELS
from ...reports import pictures, tables
from ...runs.attacking import Attack, AttackProtocol, attack_images, attack_run
from ...runs.folder import Outcome, ResultFiles
from ...runs.networks import Network, results_folder
from ...runs.observer import Observer
from ...training.setup import join_processes
from ..output import Results, echo_set_aside
from .common import open_network, show_bars, warn


def run(
    path, own, dataset, out, data_dir, download, device, quiet, eps, clip, **options
) -> Results:
    """Do what ``citrus-lirpa attack`` is for."""
    lirpa.load()
    where = join_processes(device)
    network = open_network(path, dataset, eps, own)
    protocol = AttackProtocol(eps=network.eps, clip=PIXELS if clip else None, **options)
    images = attack_images(network, protocol.split, data_dir, download=download)
    outcome = attack_run(
        network,
        images,
        protocol,
        out or results_folder(path),
        device=where,
        observer=_observer(network, quiet),
    )
    if outcome is None:
        return None
    warn(network.doubt(outcome.record["accuracy"]["clean"]))
    return _answer(outcome)


def _observer(network: Network, quiet: bool) -> Observer:
    def show(attack: Attack) -> None:
        protocol = attack.protocol
        click.echo(tables.uap_table(attack.result, protocol.eps, protocol.clip, network.spec))

    def draw(attack: Attack, files: ResultFiles) -> None:
        eps, clip, picture = attack.protocol.eps, attack.protocol.clip, files.paths["picture"]
        pictures.plot_try(attack.result, attack.x, eps, clip, network.spec, picture)

    return Observer(
        progress=show_bars(quiet), on_set_aside=echo_set_aside, on_result=show, draw=draw
    )


def _answer(outcome: Outcome) -> Results:
    """Print what was written where, and return the record with the files."""
    files = outcome.files.written()
    click.echo(
        f"perturbation: {files['perturbation']}\nresults: {files['results']}\n"
        + (
            f"picture: {files['picture']}"
            if "picture" in files
            else "no image was broken: no picture"
        )
    )
    return {**outcome.record, "files": files}
