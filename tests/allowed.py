"""The search behind ``citrus_lirpa/bounds/allowed.json``: points outside auto_LiRPA's bounds.

Every form of an operation stands in small networks, between linear layers, at their ends, twice,
beside itself; these are bounded over boxes of many places and widths by every method, and points
of the boxes are tried: corners, faces, random ones, and those that gradients lead to.

``PYTHONPATH=. python tests/allowed.py --seeds 8`` writes the rows of the auto_LiRPA that is
installed.
"""

import argparse
import contextlib
import datetime
import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from citrus_lirpa.bounds import allowed, lirpa, tracing
from citrus_lirpa.bounds.box import Box
from citrus_lirpa.bounds.graph import Graph
from citrus_lirpa.bounds.lirpa_bounds import METHODS, LirpaNetwork, magnitudes
from citrus_lirpa.bounds.precision import IN_FLOAT64, rounding_threshold
from citrus_lirpa.errors import ModelError

#: Boxes of a network, intervals of a function, points of each that are drawn, gradient's steps.
BOXES, INTERVALS, POINTS, STEPS = 48, 600, 96, 24
#: Bounds that a method must have given to count.
LEAST = 2_000
IMAGE = (2, 6, 6)


class Fn(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[..., Tensor]):
        super().__init__()
        self.function = function

    def forward(self, *x: Tensor) -> Tensor:
        return self.function(*x)


class Beside(nn.Module):
    """A layer on a value, and what a function makes of both."""

    def __init__(self, layer: nn.Module, join: Callable[[Tensor, Callable[..., Tensor]], Tensor]):
        super().__init__()
        self.layer, self.join = layer, join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.layer)


class Lines(nn.Sequential):
    """A function of one input beside that input, and sums of both, whose bounds are its lines."""

    def __init__(self, layer: nn.Module):
        beside = Beside(layer, lambda x, f: torch.cat([f(x), x], 1))
        super().__init__(beside, linear(2, 6))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer of a random scale, so that its values lie at kinks and far from them."""
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.mul_(3 * torch.rand(()) + 0.3)
        layer.bias.mul_(2 * torch.rand(()))
    return layer


def of_values(make: Callable[[], nn.Module]) -> Iterator[nn.Module]:
    """Networks of three inputs around a function of single values."""
    yield nn.Sequential(make(), linear(3, 3))
    yield nn.Sequential(linear(3, 4), make(), linear(4, 3))
    yield nn.Sequential(linear(3, 4), make(), linear(4, 4), make(), linear(4, 3))
    yield nn.Sequential(linear(3, 4), nn.ReLU(), linear(4, 4), make(), linear(4, 3))
    yield nn.Sequential(linear(3, 3), make())
    yield nn.Sequential(linear(3, 4), Beside(make(), lambda x, f: f(x) + x), linear(4, 3))
    yield nn.Sequential(linear(3, 4), Beside(make(), lambda x, f: f(x) - 2 * f(-x)), linear(4, 3))
    yield nn.Sequential(
        linear(3, 4), Beside(make(), lambda x, f: torch.cat([f(x), f(-x)], 1)), linear(8, 3)
    )
    yield nn.Sequential(linear(3, 1), make(), linear(1, 2))
    yield Lines(make())


def of_images(make: Callable[[], nn.Module], channels: int = 3) -> Iterator[nn.Module]:
    """Networks of images around a function of images (N, C, 6, 6)."""

    def convolution(inputs: int, outputs: int) -> nn.Module:
        return nn.Conv2d(inputs, outputs, 3, padding=1)

    for first in (nn.Identity(), nn.ReLU(), nn.Tanh()):
        layers = nn.Sequential(convolution(2, channels), first, make(), nn.Flatten())
        yield nn.Sequential(layers, linear(width(layers), 3))
    layers = nn.Sequential(convolution(2, channels), make())
    after = nn.Sequential(layers, nn.Conv2d(layers(torch.zeros(1, *IMAGE)).shape[1], 3, 1))
    for second in (nn.ReLU(), nn.Tanh()):
        rest = nn.Sequential(after, second, nn.Flatten())
        yield nn.Sequential(rest, linear(width(rest), 3))


def both(make: Callable[[], nn.Module]) -> Iterator[nn.Module]:
    """Networks around a function of values of any shape."""
    yield from of_values(make)
    yield from of_images(make)


def width(layers: nn.Module) -> int:
    return layers(torch.zeros(1, *IMAGE)).flatten(1).shape[1]


def values(*functions: Callable[[Tensor], Tensor], kind=of_values) -> Callable:
    """Networks around each of some functions."""
    return lambda: (net for f in functions for net in kind(functools.partial(Fn, f)))


def layers(*makers: Callable[[], nn.Module], kind=of_images) -> Callable:
    return lambda: (net for make in makers for net in kind(make))


def normalisation(size: int, of: type) -> nn.Module:
    layer = of(size)
    for t in (layer.weight, layer.running_var):
        nn.init.uniform_(t, 0.2, 2)
    for t in (layer.bias, layer.running_mean):
        nn.init.normal_(t)
    return layer


def _scaled(x: Tensor) -> Tensor:
    return x * torch.linspace(-2, 2, x.shape[1]).view(-1, *[1] * (x.ndim - 2))


_TAKEN = torch.tensor([0, 2])
#: Networks for every form of an operation, as functions that make them anew.
NETWORKS: dict[str, Callable[[], Iterator[nn.Module]]] = {
    "Linear": values(lambda x: x, nn.functional.relu),
    "Conv2d without groups or dilation": layers(
        lambda: nn.Conv2d(3, 3, 3, stride=2),
        lambda: nn.Conv2d(3, 3, 3, padding=1),
        lambda: nn.Conv2d(3, 2, (1, 3), stride=(1, 2), padding=(0, 1), bias=False),
    ),
    **dict.fromkeys(
        ("Conv2d with groups or dilation, as matrices",
         "Conv2d with groups or dilation, as patches"),
        layers(
            lambda: nn.Conv2d(3, 3, 2, padding=1, dilation=2),
            lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3),
        ),
    ),
    "BatchNorm in eval mode": lambda: (
        net
        for kind, of, size in (
            (of_images, nn.BatchNorm2d, 3),
            (lambda make: [nn.Sequential(linear(3, 4), make(), nn.ReLU(), linear(4, 3)),
                           nn.Sequential(linear(3, 4), nn.ReLU(), make(), linear(4, 3))],
             nn.BatchNorm1d, 4),
        )
        for net in kind(lambda: normalisation(size, of))  # noqa: B023
    ),
    "flatten, reshape, squeeze": values(
        lambda x: x.flatten(1).reshape(-1, x.shape[1], *x.shape[2:]), kind=both
    ),
    "permute, transpose": values(lambda x: x.permute(0, 2, 3, 1), lambda x: x.transpose(2, 3),
                                 kind=of_images),
    "cast to float32 or float64": values(
        lambda x: x.to(torch.float32), lambda x: x.relu().float() - x.to(torch.float32), kind=both),
    "sum, difference, negative": values(
        lambda x: x + 1.5, lambda x: 2 - x, lambda x: x + x, lambda x: x.relu() - x,
        lambda x: -x - x.relu(), lambda x: -x, kind=both),
    "product with a constant": values(lambda x: -0.7 * x, _scaled, kind=both),
    "division by a constant": values(lambda x: x / 0.3, lambda x: x / -2, kind=both),
    "product of two computed values": values(
        lambda x: x * x, lambda x: x * x.relu(), lambda x: x * torch.sigmoid(x),
        lambda x: x * (1 - x), lambda x: x * x.flip(1) if x.ndim == 9 else x * x.tanh()),
    "concatenation": values(
        lambda x: torch.cat([x, x.relu()], 1), lambda x: torch.cat([x.tanh(), -x], 1),
        kind=lambda make: [n for w in (3,) for n in (
            nn.Sequential(linear(3, w), make(), linear(2 * w, 3)),
            nn.Sequential(make(), linear(6, 3)),
            nn.Sequential(linear(3, w), make(), nn.ReLU(), linear(2 * w, 3)),
            nn.Sequential(linear(3, w), nn.ReLU(), make(), nn.Tanh(), linear(2 * w, 3)),
            *of_images(make))]),
    "slice": values(lambda x: x[:, 1:3], lambda x: x[:, :2] + x[:, 1:3],
                    kind=lambda make: [*_narrowing(make, 2), *of_images(make)]),
    "split": values(lambda x: x.split([1, 2], 1)[1], lambda x: sum(x.split(1, 1)),
                    kind=lambda make: [*of_images(make)]),
    "selection in order, without repeats": values(
        lambda x: x[:, _TAKEN], lambda x: x.index_select(1, _TAKEN), lambda x: x[:, 1],
        kind=lambda make: [*of_images_behind(make)]),
    "padding by zero": layers(
        lambda: nn.ZeroPad2d((1, 1, 1, 1)), lambda: nn.ZeroPad2d((0, 2, 1, 0))),
    "mean over axes": values(
        lambda x: x.mean((2, 3), keepdim=True), lambda x: x.mean(1, keepdim=True), kind=of_images),
    "sum over axes": values(
        lambda x: x.sum((2, 3), keepdim=True), lambda x: x.sum(1, keepdim=True), kind=of_images),
    "AdaptiveAvgPool2d(1)": layers(lambda: nn.AdaptiveAvgPool2d(1)),
    "AvgPool2d with stride = kernel and no padding": layers(
        lambda: nn.AvgPool2d(2), lambda: nn.AvgPool2d(3), lambda: nn.AvgPool2d((2, 3))),
    "AvgPool2d with another stride or padding": layers(
        lambda: nn.AvgPool2d(3, 2), lambda: nn.AvgPool2d(2, 2, 1), lambda: nn.AvgPool2d(3, 1),
        lambda: nn.AvgPool2d(3, 2, 1)),
    "MaxPool2d with stride = kernel and no padding": layers(
        lambda: nn.MaxPool2d(2), lambda: nn.MaxPool2d(3), lambda: nn.MaxPool2d((2, 3))),
    "MaxPool2d with another stride or padding": layers(
        lambda: nn.MaxPool2d(3, 2), lambda: nn.MaxPool2d(2, 2, 1), lambda: nn.MaxPool2d(3, 1),
        lambda: nn.MaxPool2d(3, 2, 1)),
    "ReLU": layers(nn.ReLU, kind=both),
    "LeakyReLU with a slope from 0 to 1": layers(
        *(lambda a=a: nn.LeakyReLU(a) for a in (0.01, 0.1, 0.5, 0.9)), kind=both),
    "LeakyReLU with another slope": layers(
        *(lambda a=a: nn.LeakyReLU(a) for a in (-0.5, 2.0)), kind=both),
    "Tanh": layers(nn.Tanh, kind=both),
    "Sigmoid": layers(nn.Sigmoid, kind=both),
    "Softplus": layers(nn.Softplus, kind=both),
    "GELU": layers(nn.GELU, kind=both),
    "Hardtanh, ReLU6, clamp": layers(
        nn.Hardtanh, nn.ReLU6, lambda: Fn(lambda x: x.clamp(-0.3, 0.8)), kind=both),
    "abs": values(torch.abs, kind=both),
    "exp": values(torch.exp, lambda x: (-x.abs()).exp(), kind=both),
    "log": values(lambda x: (x.relu() + 0.1).log(), lambda x: (x.exp() + 1).log()),
    "sqrt": values(lambda x: (x.relu() + 0.1).sqrt(), lambda x: (x.abs() + 0.2).sqrt(),
                   lambda x: (x * x + 0.5).sqrt()),
    "reciprocal": values(lambda x: 1 / (x.relu() + 0.3), lambda x: (x.abs() + 0.5) ** -1,
                         lambda x: (x.exp() + 1).reciprocal()),
    "quotient by a computed value": values(
        lambda x: x / (x.abs() + 0.5), lambda x: x.tanh() / (1 + x.relu())),
    "x ** 2": values(lambda x: x**2, kind=both),
    "x ** 3": values(lambda x: x**3, kind=both),
    "x ** 4": values(lambda x: x**4 / 4, kind=both),
    "sin, cos": values(torch.sin, torch.cos, kind=both),
    "atan": values(torch.atan, kind=both),
    "maximum and minimum of two values": values(
        lambda x: torch.maximum(x, -0.5 * x), lambda x: torch.minimum(x, x.relu() - 0.3),
        kind=both),
    "maximum over an axis": values(
        lambda x: x.amax((2, 3), keepdim=True), lambda x: x.max(1, keepdim=True).values,
        kind=of_images),
    "Softmax": values(lambda x: x.softmax(1)),
}  # fmt: skip


def _narrowing(make: Callable[[], nn.Module], left: int) -> Iterator[nn.Module]:
    yield nn.Sequential(make(), linear(left, 3))
    yield nn.Sequential(linear(3, 4), nn.ReLU(), make(), linear(left, 3))
    yield nn.Sequential(linear(3, 4), make(), nn.Tanh(), linear(left, 3))


def of_images_behind(make: Callable[[], nn.Module]) -> Iterator[nn.Module]:
    for first in (nn.Identity(), nn.ReLU(), nn.Tanh()):
        rest = nn.Sequential(nn.Conv2d(2, 3, 3), first, make(), nn.Flatten())
        yield nn.Sequential(rest, linear(width(rest), 3))


#: Whether convolutions as patches (True) or as matrices are of another form.
_LEFT_OUT = {
    "Conv2d with groups or dilation, as matrices": True,
    "Conv2d with groups or dilation, as patches": False,
}


@dataclass
class Found:
    """What was found of one form.

    Attributes:
        bounds: How many bounds each method gave.
        excess: The most by which a bound lies above a value, in thresholds of rounding.
        unsupported: Why a method gave none, if it gave none.
    """

    bounds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(METHODS, 0))
    excess: dict[str, float] = field(default_factory=lambda: dict.fromkeys(METHODS, 0.0))
    unsupported: dict[str, str] = field(default_factory=dict)
    stands: bool = False

    @property
    def methods(self) -> list[str]:
        """The methods with enough bounds of which none was wrong; each rests on those before it."""
        sound = []
        for method in METHODS:
            if self.excess[method] > 1:
                break
            if self.bounds[method] < LEAST:
                break
            sound.append(method)
        return sound


def search(form: str, seeds: range) -> Found:
    """Look for points outside the bounds of networks with a form of an operation."""
    found = Found()
    for seed in seeds:
        torch.manual_seed(seed)
        for model in NETWORKS[form]():
            image = next(m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
            values = (1,) if isinstance(model, Lines) else (3,)
            shape = IMAGE if isinstance(image, nn.Conv2d) else values
            modes = (False, True) if shape == IMAGE else (False,)
            for patches in [mode for mode in modes if mode is not _LEFT_OUT.get(form)]:
                _search(form, model.eval(), shape, patches, found)
            if isinstance(model, Lines):
                _search_in_float64(form, model, found)
    return found


def _search_in_float64(form: str, model: nn.Module, found: Found) -> None:
    """Search as well where a bound near zero is decided, by a far smaller threshold."""
    torch.set_default_dtype(torch.float64)
    try:
        _search(form, model.double(), (1,), False, found, IN_FLOAT64)
    finally:
        torch.set_default_dtype(torch.float32)


def _search(
    form: str, model: nn.Module, shape: tuple, patches: bool, found: Found, of_slack: float = 1.0
) -> None:
    try:
        bounded = traced(model, shape, patches)
    except ModelError as error:
        found.unsupported.update(dict.fromkeys(METHODS, str(error)))
        return
    graph = Graph(bounded)
    order, _ = graph.path(graph.output, {graph.input})
    found.stands |= any(f.name == form for o in order if (f := allowed.form_of(o.node)))
    box = boxes(shape, INTERVALS if isinstance(model, Lines) else BOXES)
    network = LirpaNetwork(bounded, graph)
    outputs = model(box.lower).shape[1]
    c = torch.cat([torch.eye(outputs), -torch.eye(outputs), torch.randn(2, outputs)])
    c = c.expand(len(box.lower), -1, -1)
    lowest, largest = lowest_values(model, box, c)
    for method in METHODS:
        try:
            with torch.no_grad():
                bounds = network.bounds(box, c, method, list(model.parameters()))
        except ModelError as error:
            found.unsupported[method] = str(error)
            continue
        slack = of_slack * rounding_threshold(largest, magnitudes(graph, bounds.within))
        slack = slack.unsqueeze(1)
        excess = ((bounds.lower - lowest) / slack).detach().nan_to_num(-1.0, posinf=1e9)
        found.bounds[method] += excess.numel()
        found.excess[method] = max(found.excess[method], float(excess.max()))


@contextlib.contextmanager
def _convolutions_as(patches: bool) -> Iterator[None]:
    before = tracing.MATRIX_MODE_LIMIT
    tracing.MATRIX_MODE_LIMIT = 0 if patches else before
    try:
        yield
    finally:
        tracing.MATRIX_MODE_LIMIT = before


def traced(model: nn.Module, shape: tuple, patches: bool) -> nn.Module:
    with _convolutions_as(patches):
        return tracing.wrap(model, torch.rand(2, *shape))


def boxes(shape: tuple, n: int) -> Box:
    """n boxes of many places and widths; some have no width along some axes."""
    scale = torch.tensor([0.0, 0.3, 1.0, 3.0])[torch.arange(n) % 4]
    radius = 10 ** (3 * torch.rand(n) - 2.5)
    wide = torch.rand(n, *shape) < 0.3 + torch.rand(n).view(-1, *[1] * len(shape))
    spread = [t.view(-1, *[1] * len(shape)) for t in (scale, radius)]
    return Box.around(torch.randn(n, *shape) * spread[0], spread[1] * wide)


def lowest_values(model: nn.Module, box: Box, c: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest values of C @ outputs that are found, (n, rows), and the largest outputs."""
    n, rows = c.shape[:2]
    share = torch.rand(POINTS, *box.lower.shape)
    share[: POINTS // 3] = share[: POINTS // 3].round()  # corners
    sticks = torch.rand(POINTS // 3, *box.lower.shape) < 0.5
    middle = slice(POINTS // 3, 2 * (POINTS // 3))
    share[middle] = torch.where(sticks, share[middle].round(), share[middle])
    points = box.lower + share * (box.upper - box.lower)
    with torch.no_grad():
        outputs = model(points.flatten(0, 1)).view(POINTS, n, -1)
    found = torch.einsum("nrk,pnk->pnr", c, outputs)
    lowest, best = found.min(0)
    start = points[best, torch.arange(n).unsqueeze(1)]  # (n, rows, ...)
    lower, upper = (e.unsqueeze(1).expand_as(start) for e in box)
    point = start
    for step in range(STEPS):
        point = point.detach().requires_grad_(True)
        reached = (model(point.flatten(0, 1)).view(n, rows, -1) * c).sum(2)
        (gradient,) = torch.autograd.grad(reached.sum(), point)
        lowest = torch.minimum(lowest, reached.detach().nan_to_num(torch.inf))
        move = (upper - lower) * (0.5 * 0.8**step) * gradient.nan_to_num(0.0).sign()
        point = torch.minimum(torch.maximum(point.detach() - move, lower), upper)
    return lowest, outputs.abs().amax(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--only", default="", help="forms whose name begins so")
    options = parser.parse_args()
    version = lirpa.load().version
    today = datetime.date.today().isoformat()
    kept = [r for r in (allowed.rows() if allowed.TABLE.exists() else [])
            if r["version"] != version or not r["operation"].startswith(options.only)]  # fmt: skip
    for form in allowed.FORMS:
        if not form.name.startswith(options.only):
            continue
        found = search(form.name, range(options.seeds))
        bounds = sum(found.bounds.values())
        excess = {m: round(e, 2) for m, e in found.excess.items()}
        print(version, form.name, found.stands, found.methods, excess, found.bounds, flush=True)
        if found.stands:
            kept.append({"operation": form.name, "version": version, "date": today,
                         "bounds": bounds, "methods": found.methods})  # fmt: skip
    order = [form.name for form in allowed.FORMS]
    kept.sort(key=lambda row: (row["version"], order.index(row["operation"])))
    lines = ",\n  ".join(map(json.dumps, kept))
    allowed.TABLE.write_text(f"[\n  {lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
