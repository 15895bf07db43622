"""Random networks of all operators, and whether their bounds and certificates hold.

``PYTHONPATH=.:tests python tests/operators.py --first 0 --networks 200`` prints what was found, a
line for each network and the sums.
"""

import argparse
import copy
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from allowed import Fn, linear, lowest_values
from torch import Tensor, nn

from citrus_lirpa import METHODS, BoundedNet, Box, certify
from citrus_lirpa.bounds.margins import specification
from citrus_lirpa.bounds.precision import rounding_threshold
from citrus_lirpa.errors import ModelError, SoundnessError

#: Boxes of a network for each method, classes, and the side of its images.
BOXES, CLASSES, SIDE = 40, 4, 6
#: The range of inputs.
EVERYWHERE = (-math.inf, math.inf)


# -- random networks ----------------------------------------------------------------------


def number(least: float, most: float) -> float:
    return least + (most - least) * float(torch.rand(()))


def choose(options):
    return options[int(torch.randint(len(options), ()))]


def smooth() -> nn.Module:
    """An activation, of the usual kinds twice as often as of the others."""
    a, b = number(0.05, 0.6), number(0.1, 2)
    usual = [nn.ReLU, nn.ReLU, lambda: nn.LeakyReLU(a), nn.Tanh, nn.Sigmoid]
    rare: list[Callable[[Tensor], Tensor]] = [
        torch.abs, torch.sin, torch.cos, torch.atan, F.softplus, F.gelu, F.relu6,
        lambda x: F.leaky_relu(x, -a), lambda x: F.leaky_relu(x, 1 + b),
        lambda x: x.clamp(-a, b), lambda x: (0.3 * x).exp(), lambda x: (x.relu() + a).log(),
        lambda x: (x * x + a).sqrt(), lambda x: 1 / (x.abs() + a), lambda x: x**2 / 4,
        lambda x: x**3 / 9, lambda x: x**4 / 20, lambda x: x * torch.sigmoid(x),
        lambda x: x * x / 4,
        lambda x: torch.maximum(x, -a * x), lambda x: torch.minimum(x, x.relu() - b),
        lambda x: x / (x.abs() + a), lambda x: -x, lambda x: b * x - a, lambda x: x / b,
    ]  # fmt: skip
    return choose(usual)() if torch.rand(()) < 0.5 else Fn(choose(rare))


class Join(nn.Module):
    """Two ways from one value, joined."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second
        self.join = choose([
            lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a - 0.5 * b,
            lambda a, b: torch.cat([a, b], 1), lambda a, b: a * b / 4, torch.maximum,
        ])  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.first(x), self.second(x))


def of_values(width: int) -> nn.Module:
    """A layer of values (N, width) to some other width."""
    kind = int(torch.randint(10, ()))
    if kind < 3:
        return nn.Sequential(linear(width, choose([3, 4, 5])), smooth())
    if kind == 3:
        return nn.Sequential(nn.BatchNorm1d(width), smooth())
    if kind == 4:
        return Fn(choose([lambda x: x[:, 1:], lambda x: x.softmax(1), lambda x: x.flip(1)]))
    if kind == 5:
        return nn.Linear(width, 4, bias=False)
    if kind == 6:
        return Join(smooth(), nn.Identity())
    return smooth()


def of_images(channels: int, side: int) -> nn.Module:
    """A layer of images (N, channels, side, side)."""
    kernel, stride = choose([1, 2, 3]), choose([1, 1, 2])
    padding, dilation = choose([0, 1]), choose([1, 1, 2])
    pad = min(padding, kernel // 2)
    layers: list[Callable[[], nn.Module]] = [
        lambda: nn.Conv2d(channels, choose([2, 3, 4]), kernel, stride, padding),
        lambda: nn.Conv2d(channels, channels, kernel, stride, padding, dilation, channels),
        lambda: nn.Conv2d(channels, 3, kernel, stride, padding, dilation, bias=False),
        lambda: nn.BatchNorm2d(channels),
        lambda: nn.AvgPool2d(kernel, choose([kernel, stride]), pad),
        lambda: nn.MaxPool2d(kernel, choose([kernel, stride]), pad),
        lambda: nn.ZeroPad2d((padding, 0, 1, padding)),
        lambda: nn.ConstantPad2d(1, number(-1, 1)),
        lambda: nn.AdaptiveAvgPool2d(1),
        lambda: Fn(lambda x: x.mean((2, 3), keepdim=True)),
        lambda: Fn(lambda x: x.sum(1, keepdim=True) / 2),
        lambda: Fn(lambda x: x.transpose(2, 3)),
        lambda: Fn(lambda x: x.amax((2, 3), keepdim=True)),
        lambda: Join(nn.Conv2d(channels, channels, 3, padding=1), smooth()),
        lambda: Join(smooth(), nn.Identity()),
    ]
    picked = 0 if torch.rand(()) < 0.3 else int(torch.randint(len(layers), ()))
    layer = layers[picked]()
    return nn.Sequential(layer, smooth()) if torch.rand(()) < 0.6 else layer


def network(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A random network in eval mode with random, trained or crafted weights, and its inputs."""
    torch.manual_seed(seed)
    shape = (2, SIDE, SIDE) if seed % 2 else (3,)
    layers, x = [], torch.rand(2, *shape)
    for _ in range(choose([1, 2, 3, 4])):
        for _try in range(20):  # a window may be larger than what is left of the image
            layer = of_images(x.shape[1], x.shape[2]) if x.ndim == 4 else of_values(x.shape[1])
            try:
                after = layer.eval()(x)
            except RuntimeError:
                continue
            if after.numel() > 2 and after[0].numel() <= 300:
                layers.append(layer)
                x = after
                break
    width = x[0].numel()
    model = nn.Sequential(*layers, nn.Flatten(), linear(width, CLASSES))
    _settle(model, shape)
    choose([_as_drawn, _train, _craft])(model, shape)
    return model.eval(), shape


def _as_drawn(model: nn.Module, shape: tuple[int, ...]) -> None:
    pass


def _settle(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Give BatchNorm statistics of its own."""
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.1, 2)
            nn.init.uniform_(layer.weight, -1, 2)


def _train(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Fit random labels a little."""
    x, y = torch.randn(32, *shape), torch.randint(CLASSES, (32,))
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(15):
        optimiser.zero_grad()
        F.cross_entropy(model.eval()(x), y).backward()
        optimiser.step()


@torch.no_grad()
def _craft(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Put kinks, ties, zeros and large factors where float32 and case distinctions slip."""
    for p in model.parameters():
        part = torch.rand_like(p)
        p[part < 0.15] = 0.0
        p[part > 0.9] = p[part > 0.9].round()
        p.mul_(choose([1.0, 1.0, 0.1, 5.0]))


# -- what holds ---------------------------------------------------------------------------


def boxes(shape: tuple[int, ...]) -> Box:
    """Boxes of many places and widths; some have no width along some axes."""
    spread = [1] * len(shape)
    scale = torch.tensor([0.0, 0.3, 1.0, 3.0])[torch.arange(BOXES) % 4].view(-1, *spread)
    radius = (10 ** (3 * torch.rand(BOXES) - 2.5)).view(-1, *spread)
    wide = torch.rand(BOXES, *shape) < 0.3 + torch.rand(BOXES).view(-1, *spread)
    return Box.around(torch.randn(BOXES, *shape) * scale, radius * wide, None)


def in_float64(model: nn.Module, box: Box, y: Tensor) -> Tensor:
    """The lowest margins (N, CLASSES - 1) that sampling and gradients find, in float64."""
    c = specification(y, CLASSES, torch.float64)
    exact = Box(*(end.double() for end in box))
    return lowest_values(copy.deepcopy(model).double(), exact, c)[0]


def examine(seed: int) -> Counter:
    """Count what was accepted, refused and checked of one network, and what was wrong."""
    model, shape = network(seed)
    found: Counter = Counter(networks=1)
    try:
        net = BoundedNet(model, torch.rand(2, *shape)).eval()
        net.check_sound("ibp")
    except ModelError:
        return found + Counter(refused=1)
    found["accepted"] += 1
    box = boxes(shape)
    with torch.no_grad():
        logits = model(box.centre)
    y = torch.where(torch.rand(BOXES) < 0.7, logits.argmax(1), torch.randint(CLASSES, (BOXES,)))
    torch.set_default_dtype(torch.float64)
    try:
        lowest = in_float64(model, box, y)
    finally:
        torch.set_default_dtype(torch.float32)
    for method in METHODS:
        try:
            with torch.no_grad():
                bounds = net.bound(box, y, method)
        except ModelError:
            found[f"{method} refused"] += 1
            continue
        slack = rounding_threshold(logits, bounds.magnitudes).unsqueeze(1)
        finite = bounds.margins.isfinite() & lowest.isfinite()
        found["bounds"] += int(finite.sum())
        found["wrong bounds"] += int((finite & (bounds.margins.double() > lowest + slack)).sum())
    _examine_certificates(net, model, box, logits, found)
    return found


def _examine_certificates(net, model, box: Box, logits: Tensor, found: Counter) -> None:
    """Certify at one radius, and attack in float64 what is certified."""
    x, y = box.centre[logits.isfinite().all(1)], logits.argmax(1)[logits.isfinite().all(1)]
    eps = number(0.002, 0.1)
    try:
        proofs = certify(net, x, y, eps, method="bab", time_limit=0.05, clip=EVERYWHERE)
    except SoundnessError:
        found["contradictions"] += 1
        return
    except ModelError:
        found["certification refused"] += 1
        return
    rows = proofs.certified.nonzero().squeeze(1)
    found["certificates"] += len(rows)
    if len(rows):
        ball = Box(x[rows] - eps, x[rows] + eps)
        found["certified boxes checked"] += len(rows)
        c = specification(y[rows], CLASSES, torch.float64)
        torch.set_default_dtype(torch.float64)
        try:
            lowest, _ = lowest_values(
                copy.deepcopy(model).double(), Box(*(end.double() for end in ball)), c
            )
        finally:
            torch.set_default_dtype(torch.float32)
        found["wrong certificates"] += int((lowest.amin(1) < 0).sum())


def examined(first: int, count: int) -> Iterator[tuple[int, Counter]]:
    """What is found of so many networks, by their seeds."""
    for seed in range(first, first + count):
        yield seed, examine(seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--networks", type=int, default=200)
    options = parser.parse_args()
    total: Counter = Counter()
    for seed, found in examined(options.first, options.networks):
        total += found
        wrong = {key for key in found if key.startswith(("wrong", "contra")) and found[key]}
        if wrong or seed % 20 == 19:
            print(seed, sorted(wrong), json.dumps(total), flush=True)
    print("in all", json.dumps(total))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
