"""How long does CROWN take, here and in auto_LiRPA, on convolutional networks?

    python benchmarks/crown.py --data-dir DATA [--row NAME] [--images 2] [--run RUN]

The first test images of CIFAR-10 go through IBP, CROWN of ReLU inputs and CROWN of margins, on one
thread and in CPU seconds: by this package all images together, and by auto_LiRPA one by one.
Weights are random, with the spread of Shi et al. 2021, which keeps intervals as wide as they are,
so that many neurons are unstable; with --run they are those of a trained network.
"""

from __future__ import annotations

import math
import resource
import time
from pathlib import Path
from typing import NamedTuple

import click
import torch
from torch import Tensor, nn

from citrus_lirpa import BoundedNet, Box, data
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.formats.schema import parse_number
from citrus_lirpa.models import MODELS, Normalise
from citrus_lirpa.runs.networks import load_network
from citrus_lirpa.verify.crown.engine import DualEngine


def resnet(width: int, blocks: int) -> nn.Module:
    """Build torchvision's ResNet for small images: a 3x3 convolution first, and no pooling."""
    from torchvision.models.resnet import BasicBlock, ResNet

    net = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)
    net.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
    net.bn1, net.maxpool, net.inplanes = nn.BatchNorm2d(width), nn.Identity(), width
    for k in range(4):
        layer = net._make_layer(BasicBlock, width << k, blocks, stride=min(2, k + 1))
        setattr(net, f"layer{k + 1}", layer)
    net.fc = nn.Linear(8 * width, 10)
    return net


def resnet2b() -> nn.Module:
    """Build a ResNet of two blocks, as wide as VNN-COMP's "ResNet-2B", with BatchNorm."""
    from torchvision.models.resnet import BasicBlock

    def shortcut(before: int, after: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))

    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        BasicBlock(8, 16, 2, shortcut(8, 16)),
        BasicBlock(16, 16, 2, shortcut(16, 16)),
        *(nn.Flatten(), nn.Linear(256, 100), nn.ReLU(), nn.Linear(100, 10)),
    )


class Row(NamedTuple):
    build: object
    eps: str


ROWS = {
    "cnn7, a quarter": Row(lambda: MODELS["cnn7"]((3, 32, 32), 10, width=0.25), "8/255"),
    "cnn7, a quarter, 2/255": Row(lambda: MODELS["cnn7"]((3, 32, 32), 10, width=0.25), "2/255"),
    "cnn7": Row(lambda: MODELS["cnn7"]((3, 32, 32), 10), "8/255"),
    "resnet of two blocks": Row(resnet2b, "2/255"),
    "resnet10, width 8": Row(lambda: resnet(8, 1), "2/255"),
    "resnet18, width 16": Row(lambda: resnet(16, 2), "1/255"),
}


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default="data", show_default=True)
@click.option("--row", "names", type=click.Choice(list(ROWS)), multiple=True)
@click.option("--images", default=2, show_default=True, help="The first test images.")
@click.option("--run", type=click.Path(path_type=Path), help="A trained network instead.")
@click.option("--alone", is_flag=True, help="Without auto_LiRPA.")
def main(
    data_dir: Path, names: tuple[str, ...], images: int, run: Path | None, alone: bool
) -> None:
    torch.set_num_threads(1)
    split = data.load("cifar10", train=False, data_dir=data_dir)
    x = split.pixels(slice(0, images))
    for name in names or ROWS:
        torch.manual_seed(0)
        core, eps = ROWS[name].build(), parse_number(ROWS[name].eps)
        if run is None:
            spread(core)
            spec = data.find_spec("cifar10")
            model = nn.Sequential(Normalise(spec.mean, spec.std), core).eval()
        else:
            model = load_network(run, "cifar10", eps, None).model.eval()
        click.echo(f"{name}, ε = {eps:.5f}, {images} images")
        compare(model, x, eps, alone)


def compare(model: nn.Module, x: Tensor, eps: float, alone: bool) -> None:
    with torch.no_grad():
        y = model(x).argmax(1)
        engine = DualEngine(BoundedNet(model, x[:2]).eval(), Ball(eps))
        engine.ibp(x[:1], y[:1])  # what is made once
        begin = time.process_time()
        images, ibp, _ = engine.ibp(x, y)
        tight = engine.tightened(images)
        mine, _ = engine.margins(tight, torch.ones_like(ibp, dtype=torch.bool), 0)
        seconds = (time.process_time() - begin) / len(x)
        for label, bounds in (("IBP", images.bounds), ("CROWN", tight.bounds)):
            unstable = [int(((low < 0) & (up > 0)).sum()) // len(x) for low, up in bounds]
            click.echo(f"  unstable by {label}: {unstable}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        click.echo(f"  here: {seconds:.2f} s an image, peak {peak:.1f} GiB so far")
        if alone:
            return
        net = BoundedNet(model, x[:2], bounds="auto-lirpa").eval()
        begin = time.process_time()
        boxes = [Box.around(one, eps, None) for one in x.split(1)]
        parts = zip(boxes, y.split(1), strict=True)
        theirs = torch.cat([net.margins(box, label, "crown") for box, label in parts])
        rival = (time.process_time() - begin) / len(x)
        gap = float((mine - theirs).abs().max())
        click.echo(f"  auto_LiRPA: {rival:.2f} s, ratio {seconds / rival:.2f}, off by {gap:.1e}")


def spread(model: nn.Module) -> None:
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=math.sqrt(2 * math.pi) / weight[0].numel())


if __name__ == "__main__":
    main()
