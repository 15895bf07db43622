"""How many certificates hold in float32 as well, and what proving that takes.

    python benchmarks/arithmetic.py --data-dir DATA [--images 1000] [--net FILE.onnx:DATA:EPS]

Each network of the zoo, and each --net, is evaluated in real and in float32 arithmetic in one
process, one after the other; the CPU time of certifying counts, images and groups.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import click
import torch

from citrus_lirpa import BoundedNet
from citrus_lirpa.runs.networks import evaluation_images, load_network
from citrus_lirpa.training import zoo
from citrus_lirpa.verify import Evaluation, Protocol, evaluate


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--images", default=1000)
@click.option("--method", default="bab", help="Last stage.")
@click.option("--time-limit", default=2.0, help="Seconds for each group that is open.")
@click.option("--row", "names", multiple=True, help="Networks of the zoo whose names hold this.")
@click.option("--net", "others", multiple=True, help="FILE.onnx:DATA:EPS; then none of the zoo.")
def main(
    data_dir: Path,
    images: int,
    method: str,
    time_limit: float,
    names: tuple[str, ...],
    others: tuple[str, ...],
) -> None:
    """Print a row of a table for each network."""
    torch.set_num_threads(1)
    click.echo(
        "| network | certified, real | float32 | lost by | safe in groups, real | float32 "
        "| CPU s, real | float32 |\n|---|--:|--:|---|--:|--:|--:|--:|"
    )
    mine = [f"zoo:{name}::" for name in zoo.names() if any(part in name for part in names or [""])]
    for given in others or mine:
        path, data, eps = given.rsplit(":", 2)
        network = load_network(Path(path), data or None, float(eps) if eps else None, None)
        split = evaluation_images(network, data_dir, held_out=False, download=False)
        found: dict[str, tuple[Evaluation, float]] = {}
        for arithmetic in ("real", "float32"):
            protocol = Protocol(
                eps=network.radius,
                method=method,
                limit=images,
                time_limit=time_limit,
                arithmetic=arithmetic,
            )
            net: BoundedNet = network.bounded(torch.device("cpu"), 0, "own")
            begin = time.process_time()
            result = evaluate(net, split, network.spec, protocol, progress=False)
            found[arithmetic] = result, time.process_time() - begin
        (real, before), (single, after) = found.values()
        lost = real.certificates.certified & ~single.certificates.certified
        stages = Counter(real.certificates.methods[k] for k in real.certificates.decided_by[lost])
        click.echo(
            f"| {network.name} | {int(real.certificates.certified.sum())} "
            f"| {int(single.certificates.certified.sum())} "
            f"| {', '.join(f'{name} {n}' for name, n in stages.items()) or '-'} "
            f"| {int(real.uap.lower.sum())} | {int(single.uap.lower.sum())} "
            f"| {before:.1f} | {after:.1f} |"
        )


if __name__ == "__main__":
    main()
