"""What do auto_LiRPA's bounds prove that this package's do not, and the other way round?

    python benchmarks/engines.py --nets NETS --data-dir DATA [--images 200]

Networks of affine layers and ReLU: those of the zoo, and in NETS the published ones as ONNX files.
The same test images go through IBP, CROWN-IBP, CROWN and α-CROWN twice, with `bounds="own"` and
`bounds="auto-lirpa"`. Each stage tries what the ones before have left. Then groups of five are
bounded by the lines of each.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch

from citrus_lirpa import BoundedNet, Certificates, certify, certify_uap, data
from citrus_lirpa.formats.schema import parse_number
from citrus_lirpa.runs.networks import load_network

STAGES = ("ibp", "crown-ibp", "crown", "alpha-crown")
#: Network, data set, ε.
ROWS = (
    ("zoo:mnist-0.1-convsmall", "mnist", "0.1"),
    ("zoo:mnist-0.1-convsmall-citrus", "mnist", "0.1"),
    ("zoo:mnist-0.3-convsmall", "mnist", "0.3"),
    ("zoo:cifar10-2-255-convsmall", "cifar10", "2/255"),
    ("zoo:cifar10-8-255-convsmall", "cifar10", "8/255"),
    ("citrus_convsmall_1.onnx", "mnist", "0.1"),
    ("citrus_convsmall_2.onnx", "cifar10", "2/255"),
    ("sabr_convsmall_2.onnx", "cifar10", "2/255"),
    ("cifar10convSmallRELUDiffAI.onnx", "cifar10", "5/255"),
)


@click.command()
@click.option("--nets", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--data-dir", type=click.Path(path_type=Path), default="data")
@click.option("--images", default=200, help="The first test images of each network.")
@click.option("--row", "names", multiple=True, help="Networks whose names hold this.")
def main(nets: Path, data_dir: Path, images: int, names: tuple[str, ...]) -> None:
    """Print a row of a table for each network."""
    torch.set_num_threads(1)
    titles = ("network", "ε", *STAGES, "safe in groups", "CPU s")
    click.echo(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for name, dataset, eps in ROWS:
        if any(part in name for part in names or [""]):
            path = Path(name) if name.startswith("zoo:") else nets / name
            cells = compare(path, dataset, eps, data_dir, images)
            click.echo(f"| {' | '.join((name, eps, *cells))} |")


def compare(path: Path, dataset: str, eps: str, data_dir: Path, images: int) -> list[str]:
    """Return the cells of a row: this package's number / auto_LiRPA's (only here, only there)."""
    network = load_network(path, dataset, parse_number(eps), None)
    split = data.load(dataset, train=False, data_dir=data_dir)
    x, y = split.pixels(slice(0, images)), split.labels[:images]
    proved, safe, seconds = [], [], []
    for bounds in ("own", "auto-lirpa"):
        net = BoundedNet(network.model, x[:2], bounds=bounds).eval()
        begin = time.process_time()
        found = certify(net, x, y, parse_number(eps), time_limit=1e4)
        groups = certify_uap(
            *(net, x, y, parse_number(eps)),
            certificates=found, group_size=5, relational="io", time_limit=1e4,
        )  # fmt: skip
        seconds.append(time.process_time() - begin)
        proved.append(sets(found))
        safe.append(groups.lower)
    cells = []
    for mine, theirs in zip(*proved, strict=True):
        cell = f"{len(mine)} / {len(theirs)}"
        more, less = len(mine - theirs), len(theirs - mine)
        cells.append(f"{cell} ({more}, {less})" if more or less else cell)
    cells.append(f"{int(safe[0].sum())} / {int(safe[1].sum())}")
    cells.append(f"{seconds[0]:.1f} / {seconds[1]:.1f}")
    return cells


def sets(certificates: Certificates) -> list[set[int]]:
    """Return which images are proved up to each stage."""
    verdicts = list(enumerate(certificates.verdicts()))
    return [{i for i, v in verdicts if v in STAGES[: k + 1]} for k in range(len(STAGES))]


if __name__ == "__main__":
    main()
