"""What a second process is worth: training and certification by one process and by two.

    python benchmarks/scale.py --data-dir DATA [--rounds 5] [--json runs/scale.json]

Each process has one thread. One process and two (torchrun, gloo) take turns, so that a change
of the machine's load meets both; a round's speed-up is the ratio of its two times, and a core
that does something else meanwhile lowers it. Training: an epoch of CITRUS on random images of
CIFAR-10's size, the same batches in both, after a first epoch that is not timed. Certification:
the zoo's ConvSmall on MNIST's first test images up to α-CROWN, with the joint attack; no stage
has a time limit.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import torch

from citrus_lirpa import BoundedNet, allocator, data, distributed, runs, train
from citrus_lirpa.config import resolve
from citrus_lirpa.data import Split
from citrus_lirpa.subjects import load_subject
from citrus_lirpa.verify import Protocol, evaluate

WHATS = ("training", "certification")
BATCH, STEPS = 128, 12
IMAGES, IMAGES_AT_ONCE = 1_000, 50


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "file", type=click.Path(path_type=Path))
@click.option("--work", is_flag=True, hidden=True, help="Be one of the processes.")
def main(data_dir: Path, rounds: int, file: Path | None, work: bool) -> None:
    if work:
        working(data_dir)
        return
    rows = []
    for number in range(rounds):
        seconds = {count: timed(count, data_dir) for count in (1, 2)}
        row = {what: {n: seconds[n][what] for n in (1, 2)} for what in WHATS}
        rows.append(row)
        click.echo(f"round {number + 1}: " + ", ".join(map(shown, row.items())))
    for what in WHATS:
        ratios = [row[what][1] / row[what][2] for row in rows]
        click.echo(f"{what}: {statistics.median(ratios):.2f} (best {max(ratios):.2f})")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows, indent=2) + "\n")


def shown(item: tuple[str, dict[int, float]]) -> str:
    what, seconds = item
    return f"{what} {seconds[1]:.2f} s / {seconds[2]:.2f} s = {seconds[1] / seconds[2]:.2f}"


def timed(count: int, data_dir: Path) -> dict[str, float]:
    """Seconds of each kind of work by ``count`` new processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    done = subprocess.run(
        [sys.executable, *launcher, __file__, "--work", "--data-dir", str(data_dir)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def working(data_dir: Path) -> None:
    torch.set_num_threads(1)
    allocator.keep_freed_memory()
    distributed.start()
    seconds = dict(zip(WHATS, (training(), certification(data_dir)), strict=True))
    if distributed.leads():
        click.echo(json.dumps(seconds))


def training() -> float:
    count = BATCH * STEPS
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    images = Split(pixels, torch.randint(10, (count,)))
    overrides = ("model.name=convsmall", "train.epochs=2", f"train.batch_size={BATCH}",
                 "train.ramp_start=1", "train.ramp_length=0")  # fmt: skip
    config = resolve(preset="cifar10-8-255", overrides=overrides)
    net, loss = runs.build(config, torch.device("cpu"))
    return train.fit(net, loss, images, config).records[-1]["seconds"]


def certification(data_dir: Path) -> float:
    subject = load_subject(Path("zoo:mnist-0.1-convsmall"), None, None)
    test = data.load("mnist", train=False, data_dir=data_dir, download=False)
    net = BoundedNet(subject.model, torch.zeros(2, *subject.spec.shape))
    shared = dict(eps=0.1, method="alpha-crown", relational="none", batch_size=IMAGES_AT_ONCE)
    evaluate(net, test, subject.spec, Protocol(**shared, limit=2 * IMAGES_AT_ONCE))
    begin = time.perf_counter()
    evaluate(net, test, subject.spec, Protocol(**shared, limit=IMAGES))
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
