"""What a second process is worth: training and certification by one process and by two.

    python benchmarks/scale.py --data-dir DATA [--rounds 5] [--json runs/scale.json]

Each process has one thread. One process, two together (torchrun, gloo) and two apart, that do
half of the work each and know nothing of each other, take turns, so that a change of the
machine's load meets all. A round's speed-ups are the ratios of its times; that of two apart, by
the slower one, is what the machine's cores, caches and load allow.

Training: an epoch of CITRUS on random images of CIFAR-10's size, after a first epoch that is not
timed. Certification: the zoo's ConvSmall on MNIST's first test images up to α-CROWN, with the
joint attack; no stage has a time limit.
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

from citrus_lirpa import BoundedNet, data, distributed
from citrus_lirpa.data.types import Split
from citrus_lirpa.runs.networks import load_network
from citrus_lirpa.training import loop as train
from citrus_lirpa.training import setup as runs
from citrus_lirpa.training.config import resolve
from citrus_lirpa.verify import Protocol, evaluate

WHATS = ("training", "certification")
BATCH, STEPS = 128, 12
IMAGES, IMAGES_AT_ONCE = 1_000, 50


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "file", type=click.Path(path_type=Path))
@click.option("--work", type=int, hidden=True, help="Do this share of the work: 1, or 2 for half.")
def main(data_dir: Path, rounds: int, file: Path | None, work: int | None) -> None:
    if work is not None:
        working(data_dir, work)
        return
    rows = []
    for number in range(rounds):
        one, two = timed(data_dir), timed(data_dir, processes=2)
        apart = timed(data_dir, launchers=2, work=2)
        rows.append({w: {"one": one[w], "two": two[w], "two apart": apart[w]} for w in WHATS})
        click.echo(f"round {number + 1}: {rows[-1]}")
    for what in WHATS:
        for name in ("two", "two apart"):
            ratios = [row[what]["one"] / row[what][name] for row in rows]
            median, best = statistics.median(ratios), max(ratios)
            click.echo(f"{what}, {name}: {median:.2f} times as fast as one (best {best:.2f})")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows, indent=2) + "\n")


def timed(
    data_dir: Path, *, processes: int = 1, launchers: int = 1, work: int = 1
) -> dict[str, float]:
    """Seconds of each kind of work, by the slowest of the jobs that are started at once."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*launcher, __file__, "--work", str(work), "--data-dir", str(data_dir)]
    jobs = [
        subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(launchers)
    ]
    found = [json.loads(job.communicate()[0]) for job in jobs]
    return {what: max(seconds[what] for seconds in found) for what in WHATS}


def working(data_dir: Path, share: int) -> None:
    torch.set_num_threads(1)
    runs.keep_freed_memory()
    distributed.start()
    seconds = dict(zip(WHATS, (training(share), certification(data_dir, share)), strict=True))
    if distributed.leads():
        click.echo(json.dumps(seconds))


def training(share: int) -> float:
    batch = BATCH // share
    count = batch * STEPS
    pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    images = Split(pixels, torch.randint(10, (count,)))
    overrides = ("model.name=convsmall", "train.epochs=2", f"train.batch_size={batch}",
                 "train.ramp_start=1", "train.ramp_length=0")  # fmt: skip
    config = resolve(preset="cifar10-8-255", overrides=overrides)
    net, loss = runs.build(config, torch.device("cpu"))
    return train.fit(net, loss, images, config).records[-1]["seconds"]


def certification(data_dir: Path, share: int) -> float:
    subject = load_network(Path("zoo:mnist-0.1-convsmall"), None, None)
    test = data.load("mnist", train=False, data_dir=data_dir, download=False)
    net = BoundedNet(subject.model, torch.zeros(2, *subject.spec.shape))
    shared = dict(eps=0.1, method="alpha-crown", relational="none", batch_size=IMAGES_AT_ONCE)
    evaluate(net, test, subject.spec, Protocol(**shared, limit=2 * IMAGES_AT_ONCE))
    begin = time.perf_counter()
    evaluate(net, test, subject.spec, Protocol(**shared, limit=IMAGES // share))
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
