"""CITRUS with k = 3 and 4: what a step costs beside CITRUS's, and how often sets break together.

    python benchmarks/joint.py --data-dir DATA

A step is the loss at the ramp's full ε, the backward pass and Adam's update, on 128 real images.
Each variant is timed in pairs with CITRUS, in CPU seconds, so that other work on the machine hardly
counts. The attacks are those of the losses, on networks of the zoo and the first training images
that they classify correctly, of which each sees the four that follow.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from method_time import step_of

from citrus_lirpa import data
from citrus_lirpa.attacks import PGD, GroupAttack
from citrus_lirpa.losses.cross_input import Shifts, joint_sets
from citrus_lirpa.runs.networks import load_network

#: k, partners, and options of the attack.
VARIANTS = {
    "k = 3, four partners": ("loss.k=3",),
    "k = 3, three partners": ("loss.k=3", "loss.partners=3"),
    "k = 3, two partners": ("loss.k=3", "loss.partners=2"),
    "k = 3, three partners, 5 attack steps": ("loss.k=3", "loss.partners=3", "loss.attack_steps=5"),
    "k = 4, four partners": ("loss.k=4",),
    "k = 4, three partners": ("loss.k=4", "loss.partners=3"),
}
PRESETS = ("mnist-0.3", "cifar10-8-255")
NETWORKS = ("zoo:mnist-0.3-convsmall", "zoo:cifar10-8-255-convsmall")
IMAGES = 128


def cpu_seconds(step: Callable[[], None]) -> float:
    """What a step takes."""
    begin = time.process_time()
    step()
    return time.process_time() - begin


def ratio(preset: str, overrides: tuple[str, ...], rounds: int, data_dir: Path) -> float:
    """The median of the ratios of pairs of steps."""
    usual, joint = (
        step_of(preset, ("model.name=convsmall", *more), data_dir, IMAGES)
        for more in ((), overrides)
    )
    usual(), joint()  # warm up
    return statistics.median(cpu_seconds(joint) / cpu_seconds(usual) for _ in range(rounds))


def broken_together(name: str, size: int, share: float, data_dir: Path) -> tuple[float, float]:
    """Shares of the sets that one perturbation of share·ε breaks in part, and as a whole."""
    network = load_network(name)
    net = network.bounded(torch.device("cpu"), seed=0).eval()
    images = data.load(network.spec.name, train=True, data_dir=data_dir)
    x, y = images.pixels(slice(0, IMAGES)), images.labels[:IMAGES]
    with torch.no_grad():
        right = net(x).argmax(1) == y
    x, y = x[right], y[right]
    sets = joint_sets(Shifts(4)(len(x)), size)[0]
    u = GroupAttack.like(PGD()).perturb(net, x[sets], y[sets], share * network.eps)
    with torch.no_grad():
        moved = (x[sets] + u.unsqueeze(1)).clamp(0, 1).flatten(0, 1)
        wrong = (net(moved).argmax(1) != y[sets].flatten()).view(sets.shape)
    return wrong.any(dim=1).float().mean().item(), wrong.all(dim=1).float().mean().item()


@click.command()
@click.option("--data-dir", type=Path, default=Path("data"))
@click.option("--rounds", default=7, show_default=True, help="Pairs of steps.")
def main(data_dir, rounds) -> None:
    torch.set_num_threads(1)
    click.echo(f"| a step beside CITRUS's | {' | '.join(PRESETS)} |\n| --- | --: | --: |")
    for title, overrides in VARIANTS.items():
        found = [ratio(preset, overrides, rounds, data_dir) for preset in PRESETS]
        click.echo(f"| {title} | {' | '.join(f'{value:.1f}' for value in found)} |")
    click.echo("\n| network | sets | radius | one is broken | all are |\n|---|---|---|--:|--:|")
    for name in NETWORKS:
        for size, title in ((2, "pairs"), (3, "triples")):
            for share, radius in ((0.5, "ε/2"), (1.0, "ε")):
                some, every = broken_together(name, size, share, data_dir)
                click.echo(f"| {name} | {title} | {radius} | {some:.1%} | {every:.1%} |")


if __name__ == "__main__":
    main()
