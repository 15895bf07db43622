"""How far calls exceed their time limits: 48 calls, on networks of each kind.

    python benchmarks/deadlines.py [--load N] [--cpu]

Networks are untrained, and ε is large, so that nothing is settled early: each call has more work
than time. A call is `certify`, then `certify_uap`, on groups of five images; each may take its
limit times the number of groups, a fifth more, and a second.
"""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import torch
from torch import nn

from citrus_lirpa import BoundedNet, certify, certify_uap, models
from citrus_lirpa.formats.onnx import load_onnx, save_onnx

SHAPE, GROUP = (3, 32, 32), 5
#: Networks, and how many images of each.
KINDS = ("cnn7", "convsmall", "tanh", "onnx")
LIMITS = (0.02, 0.1)
METHODS = ("crown-ibp", "crown", "alpha-crown", "bab")


def network(kind: str) -> nn.Module:
    """A dual engine's network, deep or shallow; one of auto_LiRPA's bounds; one of an ONNX file."""
    torch.manual_seed(0)
    if kind == "cnn7":
        return models.cnn7(SHAPE, 10, width=8).eval()
    if kind == "convsmall":
        return models.convsmall(SHAPE, 10).eval()
    if kind == "tanh":
        layers = nn.Conv2d(3, 16, 4, 2), nn.Tanh(), nn.Conv2d(16, 32, 4, 2), nn.Tanh()
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 6 * 6, 10)).eval()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.onnx"
        save_onnx(models.convsmall(SHAPE, 10).eval(), SHAPE, file)
        return load_onnx(file)[0]


def calls() -> Iterator[tuple[str, float, float]]:
    """Each call in words, the seconds it was allowed, and those it took."""
    plans = itertools.product(KINDS, METHODS, LIMITS)
    for kind, method, limit in plans:
        model = network(kind)
        images = 10 if kind == "cnn7" else 40
        x = torch.rand(images, *SHAPE)
        net, y = BoundedNet(model, x[:2]), model(x).argmax(1)
        allowed = limit * images / GROUP
        begin = time.perf_counter()
        found = certify(net, x, y, 0.05, method=method, time_limit=limit, group_size=GROUP)
        yield f"certify {kind} {method} {limit} s", allowed, time.perf_counter() - begin
        if method in ("crown-ibp", "bab"):
            begin = time.perf_counter()
            certify_uap(
                net, x, y, 0.05, certificates=found, group_size=GROUP, time_limit=limit,
                relational="cross",
            )  # fmt: skip
            yield f"certify_uap {kind} {method} {limit} s", allowed, time.perf_counter() - begin


def busy() -> None:
    while True:
        sum(range(10_000))


@click.command()
@click.option("--load", default=0, show_default=True, help="Other processes that work beside.")
@click.option("--cpu", is_flag=True, help="Deadlines in CPU seconds: other work disturbs less.")
def main(load: int, cpu: bool) -> None:
    torch.set_num_threads(1)
    if cpu:
        time.perf_counter = time.process_time
    others = [multiprocessing.Process(target=busy, daemon=True) for _ in range(load)]
    for other in others:
        other.start()
    worst, count = ("", 0.0), 0
    for what, allowed, took in calls():
        count += 1
        over = took - 1.2 * allowed
        worst = max(worst, (what, over), key=lambda pair: pair[1])
        click.echo(f"{what}: allowed {allowed:.2f} s, took {took:.2f} s")
    click.echo(
        f"{count} calls beside {load}: worst {worst[1]:.2f} s beyond 1.2 x limit: {worst[0]}"
    )


if __name__ == "__main__":
    main()
