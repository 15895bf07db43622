"""Four relational verifiers of the literature on the same groups, by the modes of their names.

    python benchmarks/relational.py zoo:cifar10-2-255-convsmall --eps 3/255 --data-dir DATA

The papers count images that are classified correctly alone, and so does ``--correct``.

Each has the bounds of single images that its paper has: CROWN's for Zeng et al. and RaVeN,
α-CROWN's for RACoon, branch and bound for RABBit. The first row proves images alone.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch

from citrus_lirpa import certify, certify_uap
from citrus_lirpa.cli.types import Number
from citrus_lirpa.data import load
from citrus_lirpa.runs.networks import load_network

#: Mode, its paper, and the last method tried on single images.
ROWS = (
    ("none", "images alone, CROWN", "crown"),
    ("zeng", "Zeng et al. 2023", "crown"),
    ("raven", "RaVeN, Banerjee et al. 2024", "crown"),
    ("none", "images alone, α-CROWN", "alpha-crown"),
    ("racoon", "RACoon, Banerjee & Singh 2024", "alpha-crown"),
    ("none", "images alone, branch and bound", "bab"),
    ("rabbit", "RABBit, Suresh et al. 2024", "bab"),
)


@click.command()
@click.argument("network", type=click.Path(path_type=Path))
@click.option("--dataset", help="Of an ONNX file.")
@click.option("--eps", type=Number(), help="In pixels; the run's by default.")
@click.option("--data-dir", type=click.Path(path_type=Path), default="data", show_default=True)
@click.option("--groups", default=20, show_default=True)
@click.option("--size", default=5, show_default=True, help="Images of a group.")
@click.option("--correct", is_flag=True, help="Only images that are classified correctly.")
@click.option("--time-limit", default=10.0, show_default=True, help="Seconds for each group.")
def main(network, dataset, eps, data_dir, groups, size, correct, time_limit) -> None:
    torch.set_num_threads(1)
    found = load_network(network, dataset, eps)
    images = load(found.spec.name, train=False, data_dir=data_dir)
    net = found.bounded(torch.device("cpu"), seed=0)
    rows = torch.arange(10 * groups * size if correct else groups * size)
    if correct:
        rows = rows[net(images.pixels(rows)).argmax(1) == images.labels[rows]][: groups * size]
    x, y = images.pixels(rows), images.labels[rows]
    click.echo(f"{network}, ε = {found.eps:.4g}, {groups} groups of {size}, {time_limit:g} s each")
    click.echo()
    click.echo("| mode | what it does | UCert | under attack | seconds |\n|---|---|--:|--:|--:|")
    for mode, paper, method in ROWS:
        torch.manual_seed(0)
        begin = time.perf_counter()
        limits = dict(group_size=size, time_limit=time_limit / 2)
        certificates = certify(net, x, y, found.eps, method=method, **limits)
        bounds = certify_uap(
            net, x, y, found.eps, certificates=certificates, relational=mode, **limits
        )
        shares = (100 * bounds.certified_accuracy, 100 * bounds.attacked_accuracy)
        seconds = time.perf_counter() - begin
        row = f"{shares[0]:.0f} | {shares[1]:.0f} | {seconds:.1f}"
        click.echo(f"| {'' if mode == 'none' else f'`{mode}`'} | {paper} | {row} |")


if __name__ == "__main__":
    main()
