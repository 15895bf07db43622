"""Are bounds of other layers than ReLU as tight as auto_LiRPA's best, and as fast?

    python benchmarks/layers.py [--kind MaxPool] [--networks 20] [--images 100]

Small networks of each kind learn the embedded digits for a second. Images that are classified
correctly go through CROWN and α-CROWN, here and in auto_LiRPA, all at once, on one thread and in
CPU seconds; the two take turns in going first. Before it counts, each bounds one image by CROWN.
Margins are compared that CROWN leaves open, of any of the two. auto_LiRPA's best is the highest
bound of CROWN, of α-CROWN on CROWN's bounds of inputs, and of α-CROWN that optimises these too, 20
steps each. Where one of them fails, the others count. Our α-CROWN is computed in float64 with the
slopes found in float32, as `eval` computes bounds near zero: what rounding in float32 can add is
taken off our bounds, and not off auto_LiRPA's. A ratio of times is the median of the networks', and
in brackets that of the sums.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import click
import torch
from torch import Tensor, nn

from citrus_lirpa import BoundedNet, Box, data
from citrus_lirpa.bounds import lirpa
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.bounds.margins import logit_margins, specification
from citrus_lirpa.verify.crown.ascent import ascend_dual
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.crown.relaxation import Images

KINDS: dict[str, Callable[[], nn.Module]] = {
    "MaxPool": nn.ReLU,
    "LeakyReLU": lambda: nn.LeakyReLU(0.1),
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "GELU": nn.GELU,
}
#: Radii of the perturbations, in turn.
RADII = (0.06, 0.12)
#: Bounds that differ by less are as tight.
CLOSE = 1e-5
#: Steps of auto_LiRPA's α-CROWN.
STEPS = 20


@dataclass
class Side:
    """What one of the two has found: bounds by method, NaN where it has none, and CPU seconds."""

    bounds: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def best(self) -> Tensor:
        """Return the highest bound of each margin."""
        return torch.stack(list(self.bounds.values())).nan_to_num(-torch.inf).amax(0)


@dataclass
class Sums:
    """What is summed up over the networks of a kind."""

    margins: int = 0
    crown: int = 0
    best: int = 0
    gains: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    times: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: {"crown": [], "alpha": []}
    )
    missing: int = 0
    above: list[int] = field(default_factory=lambda: [0, 0])


@click.command()
@click.option("--kind", "kinds", type=click.Choice(list(KINDS)), multiple=True)
@click.option("--networks", default=20, show_default=True)
@click.option("--images", default=100, show_default=True)
def main(kinds: tuple[str, ...], networks: int, images: int) -> None:
    """Print a row of a table for each kind of layer."""
    torch.set_num_threads(1)
    titles = (
        "layer", "open margins", "CROWN as tight", "best as tight", "higher by", "most lower by",
        "CPU time of CROWN", "of α-CROWN", "without its α-CROWN", "above attacks: here, there",
    )  # fmt: skip
    click.echo(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for kind in kinds or KINDS:
        sums = Sums()
        for seed in range(networks):
            compare(kind, seed, images, sums)
        click.echo(f"| {kind} | {' | '.join(cells(sums, networks))} |")


def cells(sums: Sums, networks: int) -> list[str]:
    """Return the cells of a row behind its name."""
    count = max(1, sums.margins)
    times = (relative(pairs) if pairs else "-" for pairs in sums.times.values())
    return [
        str(sums.margins),
        # rounded down: 100.0 % are all
        *(f"{1000 * tight // count / 10:.1f} %" for tight in (sums.crown, sums.best)),
        f"{sum(sums.gains) / count:.3f}",
        f"{max(0.0, *sums.losses):.3f}",
        *times,
        f"{sums.missing} of {networks}",
        f"{sums.above[0]}, {sums.above[1]}",
    ]


def relative(pairs: list[tuple[float, float]]) -> str:
    """Return the median of ratios, and the ratio of the sums."""
    mine, its = map(sum, zip(*pairs, strict=True))
    return f"{median(a / b for a, b in pairs):.2f} ({mine / its:.2f})"


def compare(kind: str, seed: int, images: int, sums: Sums) -> None:
    """Add what the two find of one network."""
    model, eps = trained(kind, seed), RADII[seed // 2 % 2]
    split = data.load("digits", train=False, data_dir=Path("data"))
    x, y = split.pixels(slice(0, 100)), split.labels[:100]
    right = (model(x).argmax(1) == y).nonzero().flatten()[:images]
    x, y = x[right], y[right]
    sides = [ours, theirs] if seed % 2 else [theirs, ours]
    found = {side: side(model, x, y, eps) for side in sides}
    mine, its = found[ours], found[theirs]
    open_ = (mine.bounds["crown"] <= 0) | (its.bounds["crown"].nan_to_num(-1.0) <= 0)
    if not open_.any():
        return
    gain = (mine.best() - its.best())[open_]
    crown = (mine.bounds["crown"] - its.bounds["crown"])[open_]
    sums.margins += int(open_.sum())
    sums.crown += int((crown >= -CLOSE).sum())
    sums.best += int((gain >= -CLOSE).sum())
    sums.gains += gain.tolist()
    sums.losses.append(float((-gain).max()))
    missing = its.bounds["alpha"].isnan() & its.bounds["whole"].isnan()
    sums.missing += bool(missing.any())
    its.seconds.setdefault("alpha", its.seconds.get("whole", 0.0))
    for name, pairs in sums.times.items():
        if its.seconds.get(name):
            pairs.append((mine.seconds[name], its.seconds[name]))
    reached = lowest(model, x, y, eps)
    for k, side in enumerate((mine, its)):
        sums.above[k] += int((side.best() > reached + CLOSE).sum())
    click.echo(
        f"{kind} {seed}: {int(open_.sum())} margins, "
        f"CROWN {crown.mean():+.3f} (lowest {crown.amin():+.3f}), "
        f"best {gain.mean():+.3f} (lowest {gain.amin():+.3f}), "
        f"seconds {mine.seconds} {its.seconds}", err=True,
    )  # fmt: skip


def trained(kind: str, seed: int) -> nn.Sequential:
    """A network that has learned the digits: dense for even seeds, except with pooling."""
    torch.manual_seed(seed)
    act = KINDS[kind]
    pools = kind == "MaxPool"
    if seed % 2 or pools:
        pool = [nn.MaxPool2d(2)] if pools else []
        layers = [
            nn.Conv2d(1, 6, 3, 1 if pools else 2, 1),
            act(),
            *pool,
            nn.Conv2d(6, 12, 3),
            act(),
        ]
        layers += [nn.Flatten(), nn.Linear(48, 30), act(), nn.Linear(30, 10)]
    else:
        layers = [nn.Flatten(), nn.Linear(64, 50), act(), nn.Linear(50, 30), act()]
        layers += [nn.Linear(30, 10)]
    model = nn.Sequential(*layers)
    split = data.load("digits", train=True, data_dir=Path("data"))
    x, y = split.pixels(slice(None)), split.labels
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(200):
        rows = torch.randint(len(x), (64,))
        moved = x[rows] + 0.05 * (2 * torch.rand_like(x[rows]) - 1)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(moved), y[rows]).backward()
        optimiser.step()
    return model.eval()


def lowest(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return the lowest margins (n, K-1) that an ascent in float64 reaches for each of them."""
    model, x = model.double(), x.double()
    best = torch.full((len(x), 9), torch.inf, dtype=torch.float64)
    for row in range(9):
        u = eps * (2 * torch.rand_like(x) - 1)
        for step in range(30):
            u.requires_grad_(True)
            margin = logit_margins(model(x + u), y)[:, row]
            (gradient,) = torch.autograd.grad(margin.sum(), u)
            best[:, row] = torch.minimum(best[:, row], margin.detach())
            u = (u - eps * 0.8**step * gradient.sign()).detach().clamp(-eps, eps)
    model.float()
    return best


def ours(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Side:
    """Return what this package finds: all bounds of margins."""
    engine = DualEngine(BoundedNet(model, x[:2]).eval(), Ball(eps))
    first = engine.tightened(engine.ibp(x[:1], y[:1])[0])  # what is made once
    engine.margins(first, torch.ones(1, first.c.shape[1], dtype=torch.bool), 0)
    side, begin = Side(), time.process_time()
    images, ibp, _ = engine.ibp(x, y)
    tight, rows = engine.tightened(images), torch.ones_like(ibp, dtype=torch.bool)
    side.bounds["crown"] = engine.margins(tight, rows, 0)[0]
    side.seconds["crown"] = time.process_time() - begin
    if engine.input_steps:
        tight = engine.tightened(tight, steps=engine.input_steps)
    side.bounds["alpha"] = alpha_margins(engine, tight)
    side.seconds["alpha"] = time.process_time() - begin
    return side


@torch.no_grad()
def alpha_margins(engine: DualEngine, images: Images) -> Tensor:
    """Return bounds (n, K-1) of all margins by α-CROWN, in float64."""
    every = torch.cartesian_prod(torch.arange(len(images)), torch.arange(images.c.shape[1]))
    dual = engine.dual(images, *every.split(1, 1))
    slopes = ascend_dual(dual, engine.alpha_steps, rate=engine.alpha_rate).parameter.double()
    bounds = dual.in_float64(engine.exact_segments)(slopes, slopes.new_ones(len(every), 1)).value
    return bounds.view(len(images), -1)


def theirs(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Side:
    """Return what auto_LiRPA finds."""
    net = BoundedNet(model, x[:2], bounds="auto-lirpa").eval()
    box, side = Box.around(x, eps, None), Side()
    attempt(lambda: net.bound_unchecked(box.rows(slice(0, 1)), y[:1], "crown").margins, x)
    ways = {
        "crown": lambda: net.bound_unchecked(box, y, "crown").margins,
        "alpha": lambda: net.bound_unchecked(box, y, "alpha-crown").margins,
        "whole": lambda: optimised(model, box, y),
    }
    for name, way in ways.items():
        begin = time.process_time()
        side.bounds[name] = attempt(way, x)
        if not side.bounds[name].isnan().any():
            side.seconds[name] = time.process_time() - begin
    return side


def attempt(compute: Callable[[], Tensor], x: Tensor) -> Tensor:
    """Return bounds without graph, NaN where auto_LiRPA fails, as it does in many ways."""
    try:
        with torch.no_grad():
            return compute().detach()
    except Exception as error:  # noqa: BLE001 - it names no common class for what it cannot bound
        click.echo(f"  auto_LiRPA: {type(error).__name__}: {str(error)[:100]}", err=True)
        return torch.full((len(x), 9), torch.nan)


def optimised(model: nn.Module, box: Box, y: Tensor) -> Tensor:
    """Return auto_LiRPA's α-CROWN that optimises the bounds of inputs of activations too."""
    library = lirpa.load()
    options = lirpa.bound_options(conv_mode="matrix", alpha_iterations=STEPS)
    options["optimize_bound_args"] |= lirpa.bound_kwargs(fix_interm_bounds=False)
    net = library.BoundedModule(copy.deepcopy(model), box.lower[:1], bound_opts=options)
    ptb = library.PerturbationLpNorm(norm=float("inf"), x_L=box.lower, x_U=box.upper)
    x, c = library.BoundedTensor(box.lower, ptb), specification(y, 10, box.lower.dtype)
    with torch.enable_grad():
        return net.compute_bounds(x=(x,), C=c, method="CROWN-Optimized", bound_upper=False)[0]


if __name__ == "__main__":
    main()
