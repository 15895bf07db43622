"""Draws the README's picture: one perturbation on an ordinary network, and one on the zoo's.

    python benchmarks/picture.py --data-dir DATA

Trains a ConvSmall on MNIST by plain cross-entropy for two epochs, crafts the worst universal
perturbation of each network on the test images by SGD-UAP, and shows what it does. What is
proved of the zoo's network is read from its evaluation; of the ordinary one the cascade says it
here, for the first test images. Prints all the numbers; a minute or two on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import torch
from matplotlib.figure import Figure

from citrus_lirpa import BoundedNet, Protocol, SgdUap, UapResult, data, evaluate, fit
from citrus_lirpa.reports.tables import percent
from citrus_lirpa.runs.networks import load_network
from citrus_lirpa.training import config, zoo
from citrus_lirpa.training.setup import build

NETWORK = "mnist-0.1-convsmall-citrus"
OUT = Path(__file__).with_name("picture.png")
SHOWN = 7  # images beside the perturbation
JUDGED = 200  # images of the ordinary network that the cascade tries to certify
GREEN, RED, ORANGE, GREY = "#2a7f3f", "#c0392b", "#e08e45", "#9aa5b1"


@dataclass(frozen=True)
class Row:
    """One network: what its worst known perturbation does, and the share that is proved."""

    title: str
    result: UapResult
    proved: float
    judged: int

    @property
    def bars(self) -> list[tuple[str, float, str]]:
        """Label, share and colour: the accuracy without u, with it, and whatever u is."""
        accuracy = float(self.result.correct.float().mean())
        moved = float((self.result.moved == self.result.y).float().mean())
        return [
            ("without u", accuracy, GREY),
            ("with u", moved, ORANGE),
            ("proved, for any u", self.proved, GREEN),
        ]


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default="data", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=False)
def main(data_dir: Path, out: Path) -> None:
    torch.set_num_threads(1)
    train, test = (data.load("mnist", train=part, data_dir=data_dir) for part in (True, False))
    x, y = test.pixels(slice(None)), test.labels
    subject = load_network(f"{zoo.PREFIX}{NETWORK}")
    net, eps, said = BoundedNet(subject.model, x[:2]), subject.eps, zoo.evaluation(NETWORK)
    proved, judged = said["uap_accuracy"]["certified"], said["images"]
    rows = [
        ordinary(train, test, eps),
        Row("CITRUS training", worst(net, x, y, eps), proved, judged),
    ]
    for row in rows:
        values = ", ".join(f"{label} {percent(share, ' %')}" for label, share, _ in row.bars)
        click.echo(f"{row.title}: {values} ({row.judged} images)")
    draw(rows, x, eps).savefig(out, dpi=110)
    click.echo(out)


def ordinary(train: data.Split, test: data.Split, eps: float) -> Row:
    """A ConvSmall by plain cross-entropy, as benchmarks/methods.toml trains it."""
    overrides = ("model.name=convsmall", "train.epochs=2", "train.batch_size=64", "train.lr=2e-3")
    settings = config.resolve(preset="mnist-0.1", method="ce", overrides=overrides)
    net, loss = build(settings, torch.device("cpu"))
    fit(net, loss, train, settings)
    net.eval()
    protocol = Protocol(eps=eps, time_limit=1.0, limit=JUDGED)
    proved = evaluate(net, test, data.find_spec("mnist"), protocol).uap.certified_accuracy
    result = worst(net, test.pixels(slice(None)), test.labels, eps)
    return Row("Ordinary training", result, proved, JUDGED)


def worst(net: BoundedNet, x: torch.Tensor, y: torch.Tensor, eps: float) -> UapResult:
    torch.manual_seed(0)
    return SgdUap(epochs=5)(net, x, y, eps)


def draw(rows: list[Row], x: torch.Tensor, eps: float) -> Figure:
    figure = Figure((10.4, 3.5), layout="constrained")
    parts = figure.subfigures(len(rows), 1, hspace=0.06)
    images = chosen(rows[0].result)
    for part, row in zip(parts, rows, strict=True):
        grid = part.subplots(1, SHOWN + 2, width_ratios=[1] * (SHOWN + 1) + [3.4])
        part.suptitle(f"{row.title}, and the worst u found for it", x=0.01, ha="left", fontsize=11)
        u = row.result.u[0]
        show(grid[0], u / (2 * eps) + 0.5, "u", "black")
        for axes, image in zip(grid[1:-1], images, strict=True):
            seen, right = int(row.result.moved[image]), not bool(row.result.broken[image])
            verdict = f"a {seen}" if right else f"a {seen}?"
            show(axes, (x[image] + u).clamp(0, 1), verdict, GREEN if right else RED)
        bars(grid[-1], row)
    return figure


def chosen(result: UapResult) -> list[int]:
    """The first correctly classified test image of each of the digits 0 to 6."""
    usable = result.correct
    return [int((usable & (result.y == digit)).nonzero()[0]) for digit in range(SHOWN)]


def show(axes, image: torch.Tensor, title: str, colour: str) -> None:
    axes.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=10, color=colour)
    axes.axis("off")


def bars(axes, row: Row) -> None:
    labels, shares, colours = zip(*row.bars, strict=True)
    places = range(len(labels), 0, -1)
    axes.barh(places, [100 * share for share in shares], color=colours, height=0.62)
    for place, share in zip(places, shares, strict=True):
        axes.text(100 * share + 1.5, place, percent(share, " %"), va="center", fontsize=9)
    axes.set(xlim=(0, 122), yticks=list(places), yticklabels=labels, xticks=[])
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)


if __name__ == "__main__":
    main()
