"""``citrus-lirpa attack``."""

from __future__ import annotations

import click

from ..attacks import SgdUap
from ..bounds import lirpa
from ..bounds.box import PIXELS
from ..reports import pictures, tables
from ..runs.attacking import Attack, AttackProtocol, attack_images, attack_run
from ..runs.folder import Outcome, ResultFiles
from ..runs.networks import Network, load_network, results_folder
from ..runs.observer import Observer
from ..training.setup import join_processes
from .options import (
    clip,
    data_dir,
    dataset,
    device,
    download,
    eps,
    network_path,
    quiet,
    results_out,
    seed,
    show_bars,
)
from .output import Results, echo_set_aside, examples, results


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
@network_path
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
    "--epochs",
    default=SgdUap.epochs,
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
def attack_command(
    path, own, dataset, out, data_dir, download, device, quiet, eps, clip, **options
) -> Results:
    """Craft a universal perturbation: PATH is a run folder, a checkpoint, zoo:NAME or an ONNX file.

    Finds one perturbation of all images, or one of each class, by SGD-UAP, and reports how
    many test images it breaks. Writes uap.pt (the perturbation), uap.json, uap.png, and uap.npz
    for the report. Earlier results of other settings are moved into the folder earlier-N.
    """
    lirpa.load()
    where = join_processes(device)
    network = load_network(path, dataset, eps, own)
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
    return None if outcome is None else _answer(outcome)


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
