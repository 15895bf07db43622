"""What `citrus-lirpa eval` certifies of published networks, how long it takes, and where.

    python benchmarks/verifier.py --nets NETS --data-dir DATA [--row NAME] [--json FILE]
    python benchmarks/verifier.py --nets NETS --data-dir DATA --row NAME --against CHECKOUT

NETS holds the ConvSmall networks of the CITRUS and DiffAI authors as ONNX files. Each row is
one evaluation, on the first images of the test set, unclipped, beside what was known of the
same images before: the best lower bound (α-CROWN and the I/O formulation, or RACoon) and the
best upper bound of a joint attack. With --against each of its images goes alone to this package and
to α,β-CROWN, with the same limit in CPU seconds; see against.py.
"""

from __future__ import annotations

import json
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import click
import torch
from against import Rival, compare

from citrus_lirpa import BoundedNet, data
from citrus_lirpa.formats.schema import parse_number
from citrus_lirpa.runs.networks import load_network
from citrus_lirpa.verify import Evaluation, Protocol, evaluate


class Row(NamedTuple):
    """An evaluation: of the first ``images``, or of the first that are classified correctly."""

    file: str
    dataset: str
    eps: str
    images: int
    group: int
    seconds: float
    known: str
    correct_only: bool = False


ROWS = {
    "citrus 2/255": Row("citrus_convsmall_2", "cifar10", "2/255", 1000, 5, 500, "50.1 - 54.1"),
    "citrus 2/255, 3 minutes": Row(
        "citrus_convsmall_2", "cifar10", "2/255", 1000, 5, 6, "50.1 - 54.1"
    ),
    "sabr 2/255": Row("sabr_convsmall_2", "cifar10", "2/255", 500, 5, 120, "46.2 - 52.0"),
    "citrus 0.1": Row("citrus_convsmall_1", "mnist", "0.1", 1000, 5, 30, "94.8 - 96.2"),
    "citrus 0.15": Row("citrus_convsmall_1", "mnist", "0.15", 500, 5, 8, "47.2 - 91.0"),
    "diffai 5/255": Row(
        "cifar10convSmallRELUDiffAI", "cifar10", "5/255", 100, 10, 60, "49", correct_only=True
    ),
    "citrus 2/255, all": Row("citrus_convsmall_2", "cifar10", "2/255", 10_000, 5, 5, "-"),
    "citrus 2/255, groups of 10": Row("citrus_convsmall_2", "cifar10", "2/255", 1000, 10, 10, "-"),
    "citrus 2/255, groups of 20": Row("citrus_convsmall_2", "cifar10", "2/255", 1000, 20, 10, "-"),
    "zoo 0.3": Row("zoo:mnist-0.3-convsmall", "mnist", "0.3", 1000, 5, 5, "-"),
    "resnet 2/255": Row("resnet2b", "cifar10", "2/255", 200, 5, 20, "-"),
}


@click.command()
@click.option("--nets", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--data-dir", type=click.Path(path_type=Path), default="data", show_default=True)
@click.option("--row", "names", type=click.Choice(list(ROWS)), multiple=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--json", "file", type=click.Path(path_type=Path), help="Append the records here.")
@click.option(
    "--against", type=click.Path(path_type=Path, exists=True), help="A checkout of α,β-CROWN."
)
@click.option("--python", default=sys.executable, help="The Python that runs it.")
@click.option(
    "--config",
    default="exp_configs/vnncomp22/cifar100_small_2022.yaml",
    show_default=True,
    help="Its configuration, from its folder complete_verifier.",
)
@click.option("--images", type=int, help="With --against: of each row only so many images.")
@click.option("--seconds", type=float, help="With --against: the limit of an image.")
def main(
    nets: Path, data_dir: Path, names: tuple[str, ...], threads: int, file: Path,
    against: Path | None, python: str, config: str, images: int | None, seconds: float | None,
) -> None:  # fmt: skip
    torch.set_num_threads(threads)
    if against is not None:
        rival = Rival(against.resolve(), python, config)
        return duel(rival, [ROWS[name] for name in names or ROWS], nets, data_dir, images, seconds)
    for name in names or ROWS:
        row = ROWS[name]
        begin = time.perf_counter()
        result = run(row, nets, data_dir)
        seconds = time.perf_counter() - begin
        uap, proofs = result.uap, result.certificates
        click.echo(
            f"{name}: {len(result.y)} images in groups of {row.group}, known {row.known}: "
            f"UCert {100 * uap.certified_accuracy:.2f}, attack {100 * uap.attacked_accuracy:.2f}, "
            f"standard {100 * float(proofs.correct.float().mean()):.2f}, {seconds:.1f} s, "
            f"{threads} threads"
        )
        spent = {**proofs.seconds, **uap.seconds}
        click.echo("  seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in spent.items()))
        click.echo("  images: " + ", ".join(f"{k} {v}" for k, v in result.shares().items()))
        if file is not None:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            record = {"row": name, "wall_seconds": seconds, "peak_gib": peak, **result.record()}
            with file.open("a") as lines:
                lines.write(json.dumps(record) + "\n")
    click.echo(f"{platform.machine()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")


def duel(
    rival: Rival, rows: list[Row], nets: Path, data_dir: Path, images: int | None,
    seconds: float | None,
) -> None:  # fmt: skip
    time.perf_counter = time.process_time  # so that limits count CPU seconds
    for row in rows:
        net, found = load(row, nets, data_dir)
        count, limit = min(images or row.images, row.images), seconds or row.seconds
        found = data.Split(found.images[:count], found.labels[:count])
        with tempfile.TemporaryDirectory() as folder:
            pairs = compare(rival, net, found, parse_number(row.eps), limit, Path(folder))
        click.echo(f"{row.file} at {row.eps}, {len(pairs.images)} images, {limit:g} s each:")
        for line in pairs.lines():
            click.echo(f"  {line}")


def load(row: Row, nets: Path, data_dir: Path) -> tuple[BoundedNet, data.Split]:
    path = Path(row.file) if row.file.startswith("zoo:") else nets / f"{row.file}.onnx"
    network = load_network(path, row.dataset, parse_number(row.eps))
    model = network.model
    net = BoundedNet(model, torch.zeros(2, *network.spec.shape)).eval()
    images = data.load(row.dataset, train=False, data_dir=data_dir)
    if row.correct_only:
        with torch.no_grad():
            right = model(images.pixels(slice(0, 1000))).argmax(1) == images.labels[:1000]
        chosen = right.nonzero().squeeze(1)
        images = data.Split(images.images[chosen], images.labels[chosen])
    return net, images


def run(row: Row, nets: Path, data_dir: Path) -> Evaluation:
    net, images = load(row, nets, data_dir)
    spec = data.find_spec(row.dataset)
    protocol = Protocol(
        eps=parse_number(row.eps),
        group_size=row.group,
        time_limit=row.seconds,
        limit=row.images,
    )
    return evaluate(net, images, spec, protocol, progress=True)


if __name__ == "__main__":
    main()
