"""Do certificates hold in exact rational arithmetic? Small networks, images a hair from open.

    python benchmarks/exact.py [--certificates 100000]

Each network has 2 to 9 pixels and up to three hidden layers of random scale; one in four cancels
large terms and multiplies what is left. A batch of images is certified; then half of its images
move, by bisection between a certified and an open one, to where the bound is just above zero.
The proofs of the batch, and of its groups of four, are checked in fractions: a bound that rounding
made positive is refused.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from torch import Tensor, nn

from citrus_lirpa import BoundedNet, certify, certify_uap, checker
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.errors import ModelError
from citrus_lirpa.verify.crown.proofs import Proofs
from citrus_lirpa.verify.proof_files import MODEL, ProofFolder

BATCH, STEPS, CLASSES, GROUP = 512, 26, 3, 4
METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")


@click.command()
@click.option("--certificates", default=100_000)
@click.option("--first", default=0, help="Seed of the first network.")
def main(certificates: int, first: int) -> None:
    """Print what was checked, and each refusal."""
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    begin, seed = time.process_time(), first
    while counts["images"] < certificates:
        counts["networks"] += 1
        try:
            counts.update(check(seed))
        except ModelError:  # it cancels so much in float32 that wrapping or certify refuse it
            counts["networks not taken"] += 1
        seed += 1
        if counts["networks"] % 20 == 0:
            click.echo(json.dumps(counts), err=True)
    click.echo(json.dumps({**counts, "CPU seconds": round(time.process_time() - begin)}))


def check(seed: int) -> dict[str, int]:
    """Certify a batch of one network, and check its proofs in fractions."""
    torch.manual_seed(seed)
    model, shape = network(seed)
    clip = (0.0, 1.0) if seed % 3 == 0 else None
    method = METHODS[seed % len(METHODS)]
    with TemporaryDirectory() as path:
        net = BoundedNet(model, torch.zeros(2, *shape)).eval()
        x, eps = torch.rand(BATCH, *shape), radius(net, shape, clip)
        folder = ProofFolder(Path(path), net, Ball(eps, clip))
        x = near(net, x, eps, clip, method)
        y = net(x).argmax(1)
        proofs = Proofs(x, y)
        found = certify(net, x, y, eps, method=method, clip=clip, proofs=proofs)
        groups = certify_uap(
            net, x, y, eps, certificates=found, group_size=GROUP, clip=clip, proofs=proofs
        )
        folder.store(0, proofs, 0, GROUP, found, groups)
        exact = checker.read_network(folder.path / MODEL, exact=True)
        summary = checker.check_folder(folder.path, exact)
    for line in summary.refused:
        click.echo(f"network {seed}: {line}")
    return {
        "images": summary.images,
        "images with a bound below 1e-5": int((found.certified & (found.margin < 1e-5)).sum()),
        "certified without a proof": int(found.certified.sum()) - summary.images,
        "groups": summary.groups,
        "refused": len(summary.refused),
    }


def network(seed: int) -> tuple[nn.Sequential, tuple[int, ...]]:
    """Return a random network in eval mode, and the shape of its images."""
    side = 2 + seed % 2
    width = [3 + int(torch.randint(6, ())) for _ in range(1 + seed % 3)]
    layers: list[nn.Module] = [nn.Flatten()]
    sizes = [side * side, *width]
    if seed % 5 == 0:
        layers = [nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten()]
        sizes[0] = 2 * (side - 1) ** 2
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    behind = cancelling(sizes[-1]) if seed % 4 == 0 else []
    model = nn.Sequential(*layers, *behind, nn.Linear(sizes[-1], CLASSES)).eval()
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.mul_(1 + 4 * torch.rand(()))
        for parameter in model[-1].parameters():
            parameter.mul_(10 ** (4 * torch.rand(()) - 2))
    return model, (1, side, side)


def cancelling(width: int) -> list[nn.Module]:
    """Layers that add a large number and take it away again, with a factor behind."""
    up, down = nn.Linear(width, width), nn.Linear(width, width)
    large = 10 ** (1 + 3 * torch.rand(()))
    with torch.no_grad():
        up.bias.add_(large)
        down.weight.mul_(10)
        down.bias.sub_(down.weight.sum(1) * large)
    return [up, nn.ReLU(), down, nn.ReLU()]


def radius(net: BoundedNet, shape: tuple[int, ...], clip: tuple[float, float] | None) -> float:
    """Return the least of some radii at which IBP leaves a third of random images open."""
    x = torch.rand(100, *shape)
    y = net(x).argmax(1)
    for eps in torch.logspace(-3.5, -0.5, 13).tolist():
        if certify(net, x, y, eps, method="ibp", clip=clip).certified.float().mean() < 0.67:
            break
    return eps


def near(
    net: BoundedNet, x: Tensor, eps: float, clip: tuple[float, float] | None, method: str
) -> Tensor:
    """Move half of the images to where their certificates are just not lost."""
    method = min(method, "crown", key=METHODS.index)

    def certified(images: Tensor, y: Tensor) -> Tensor:
        return certify(net, images, y, eps, method=method, clip=clip).certified

    y = net(x).argmax(1)
    known = certified(x, y)
    low, high = x[known][: BATCH // 2], x[~known]
    if not len(low) or not len(high):
        return x
    label, high = y[known][: BATCH // 2], high[torch.randint(len(high), (len(low),))]
    for _ in range(STEPS):
        middle = (low + high) / 2
        inside = certified(middle, label).view(-1, 1, 1, 1)
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return torch.cat([low, x[: BATCH - len(low)]])


if __name__ == "__main__":
    main()
