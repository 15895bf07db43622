"""Time and memory of a training step of COLT, stage by stage, beside IBP's.

    python benchmarks/colt_step.py --data-dir DATA [--batch 100] [--projections 50]

Each row is measured in a process of its own. Memory is what the process takes at its highest
beyond the highest before the first step. `--projections 0` keeps every generator of the
zonotopes, in ten times the memory for ten times the batch.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import torch

from citrus_lirpa import data
from citrus_lirpa.training import config, setup

#: A moment of each stage in which its loss has faded in, as a share of the training.
MOMENTS = {"input": 0.3, "first ReLU": 0.6, "second ReLU": 0.95}


@click.command()
@click.option("--preset", default="mnist-0.1", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), default="data", show_default=True)
@click.option("--batch", default=100, show_default=True)
@click.option("--projections", default=50, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--only", type=click.Choice(["ibp", *MOMENTS]), help="Measure one row here.")
def main(
    preset: str, data_dir: Path, batch: int, projections: int, rounds: int, only: str | None
) -> None:
    if only:
        seconds, memory = measured(only, preset, data_dir, batch, projections, rounds)
        click.echo(f"{seconds} {memory}")
        return
    rows = {}
    for name in ("ibp", *MOMENTS):
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows[name] = [float(word) for word in out.split()]
    click.echo("| step | s/step | relative to IBP | memory, MB |\n| --- | --: | --: | --: |")
    for name, (seconds, memory) in rows.items():
        title = "IBP" if name == "ibp" else f"COLT, zonotope at: {name}"
        relative = seconds / rows["ibp"][0]
        click.echo(f"| {title} | {seconds:.3f} | {relative:.1f} | {memory:.0f} |")
    click.echo(f"{preset}, ConvSmall, batch {batch}, {projections} projections, one thread")


def measured(
    name: str, preset: str, data_dir: Path, batch: int, projections: int, rounds: int
) -> tuple[float, float]:
    """Seconds of a step and megabytes that it takes at its highest."""
    torch.set_num_threads(1)
    setup.keep_freed_memory()
    method = "ibp" if name == "ibp" else "colt"
    options = [] if name == "ibp" else [f"loss.projections={projections}"]
    settings = config.resolve(
        preset=preset, method=method, overrides=["model.name=convsmall", *options]
    )
    images = data.load(settings.data.name, train=True, data_dir=data_dir)
    x, y = images.pixels(slice(0, batch)), images.labels[:batch]
    net, loss = setup.build(settings, torch.device("cpu"))
    net.train()
    optimiser = torch.optim.Adam(net.parameters(), lr=settings.train.lr)
    loss.begin_step(net, MOMENTS.get(name, 1.0), settings.train.max_eps)
    before, seconds = peak(), []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        loss(net, x, y, settings.train.max_eps).backward()
        optimiser.step()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:]), peak() - before  # the first one warms up


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
