"""Time of a training step of every method, relative to plain IBP's, in one run.

    python benchmarks/method_time.py --data-dir DATA [--preset mnist-0.1] [--model convsmall]

A step is the loss at the ramp's full ε (half of it for CROWN-IBP, which fades into IBP) and in
the last stage, the backward pass and Adam's update, on one real batch. The methods take turns;
the median of the CPU seconds over the rounds is reported.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from citrus_lirpa import data
from citrus_lirpa.training import config
from citrus_lirpa.training import setup as runs


@click.command()
@click.option("--preset", default="mnist-0.1", show_default=True)
@click.option("--model", default="convsmall", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), default="data", show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--rounds", default=10, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--only", type=click.Choice(config.methods()), multiple=True)
@click.option("--json", "file", type=click.Path(path_type=Path), help="Also write the rows here.")
def main(preset, model, data_dir, batch, rounds, threads, only, file) -> None:
    torch.set_num_threads(threads)
    names = list(dict.fromkeys(["ibp", *(only or config.methods())]))
    chosen = (f"model.name={model}",)
    steps = {name: step_of(preset, chosen, data_dir, batch, name) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name, step in steps.items():
            begin = time.process_time()
            step()
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - begin)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        {"method": name, "seconds_per_step": value, "relative_to_ibp": value / median["ibp"]}
        for name, value in sorted(median.items(), key=lambda item: item[1])
    ]
    click.echo("| method | CPU s/step | relative to IBP |\n| --- | --: | --: |")
    for row in rows:
        click.echo(
            f"| {row['method']} | {row['seconds_per_step']:.4f} | {row['relative_to_ibp']:.2f} |"
        )
    machine = f"{platform.processor() or platform.machine()}, torch {torch.__version__}"
    setting = f"{preset}, {model}, batch {batch}, {threads} threads, {rounds} rounds"
    click.echo(f"{setting}; {machine}, {time.strftime('%Y-%m-%d')}")
    if file:
        file.write_text(
            json.dumps({"setting": setting, "machine": machine, "rows": rows}, indent=2)
        )


def step_of(
    preset: str, overrides: Sequence[str], data_dir: Path, batch: int, method: str = "citrus"
):
    """A function that takes one training step of a method on the first images, as train does."""
    runs.keep_freed_memory()
    settings = config.resolve(preset=preset, method=method, overrides=overrides)
    images = data.load(settings.data.name, train=True, data_dir=data_dir)
    x, y = images.pixels(slice(0, batch)), images.labels[:batch]
    net, loss = runs.build(settings, torch.device("cpu"))
    net.train()
    eps = settings.train.max_eps * (0.5 if method == "crown-ibp" else 1.0)
    loss.begin_step(net, 1.0, eps)
    optimiser = torch.optim.Adam(net.parameters(), lr=settings.train.lr)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss(net, x, y, eps).backward()
        optimiser.step()

    return step


if __name__ == "__main__":
    main()
