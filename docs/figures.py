"""Draw the figures of the documentation with citrus_lirpa itself.

    python docs/figures.py               # all of them, about five minutes on one CPU core
    python docs/figures.py boxes groups  # some of them

Each is a function below, and writes docs/images/NAME.png. Where a page quotes a number of a
figure, it is printed here. Everything is seeded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from citrus_lirpa import (
    PGD,
    BoundedNet,
    Box,
    Citrus,
    Groups,
    History,
    Ibp,
    Protocol,
    Sabr,
    SgdUap,
    Shifts,
    certify_uap,
    config,
    cross_input_boxes,
    data,
    evaluate,
    fit,
    plots,
    robust_cross_entropy,
    runs,
    try_uap,
)
from citrus_lirpa.reports import figures
from citrus_lirpa.reports.palette import house_style
from citrus_lirpa.reports.tables import percent

IMAGES = Path(__file__).parent / "images"
EPS, TAU_RATIO = 0.11, 0.35  # of the figures in two dimensions
_COLOURS = ("#3b6fb6", "#d9822b", "#3c9a5f")
_DIGITS = data.DATASETS["digits"]


# -- two dimensions -----------------------------------------------------------------


def blobs(count: int) -> tuple[Tensor, Tensor]:
    """Draw points (count, 2) of three classes around the middle of the unit square, and labels."""
    y = torch.arange(count) % 3
    angle = y * 2 * torch.pi / 3 + 0.6
    middle = 0.5 + 0.25 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return middle + 0.06 * torch.randn(count, 2), y


def spiral(count: int) -> tuple[Tensor, Tensor]:
    """Draw points (count, 2) of two classes, each an arm of a spiral, and labels."""
    y = torch.arange(count) % 2
    turn = 0.7 + 2.2 * torch.pi * torch.rand(count)
    angle = turn + y * torch.pi
    arm = 0.5 + 0.055 * turn.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], dim=1)
    return arm + 0.008 * torch.randn(count, 2), y


def train_in_two_dimensions(
    loss: nn.Module,
    draw: Callable[[int], tuple[Tensor, Tensor]] = blobs,
    *,
    eps: float = EPS,
    epochs: int = 200,
    seed: int = 0,
) -> BoundedNet:
    """Train a small network on 600 points: a quarter of the time with ε = 0, then ε rises."""
    torch.manual_seed(seed)
    x, y = draw(600)
    model = nn.Sequential(
        nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, int(y.max()) + 1)
    )
    net = BoundedNet(model, x[:2])
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(epochs):
        radius = eps * min(1.0, max(0.0, 2 * epoch / epochs - 0.5))
        for rows in torch.randperm(len(x)).split(100):
            optimiser.zero_grad()
            loss(net, x[rows], y[rows], radius).backward()
            optimiser.step()
    return net.eval()


def five_points() -> tuple[Tensor, Tensor]:
    """Return five inputs near the borders, where perturbations matter, and their labels."""
    x = [[0.41, 0.78], [0.56, 0.67], [0.47, 0.35], [0.78, 0.47], [0.24, 0.41]]
    return torch.tensor(x), torch.tensor([1, 0, 2, 0, 1])


def show_regions(axes: Axes, net: BoundedNet) -> None:
    """Show the classes that the network predicts in the unit square."""
    side = torch.linspace(0, 1, 300)
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1)
    with torch.no_grad():
        classes = net(grid.view(-1, 2)).argmax(1).view(300, 300).numpy()
    pale = ListedColormap([f"{colour}38" for colour in _COLOURS])
    axes.imshow(classes, origin="lower", extent=(0, 1, 0, 1), cmap=pale, vmin=0, vmax=2)
    axes.set(xticks=[], yticks=[], aspect="equal", xlim=(0, 1), ylim=(0, 1))


def show_square(axes: Axes, low: Tensor, high: Tensor, **style) -> None:
    """Draw the rectangle from ``low`` to ``high``, (2,) each."""
    width, height = (high - low).tolist()
    axes.add_patch(Rectangle(low.tolist(), width, height, **style))


def bound(net: BoundedNet, x: Tensor, y: Tensor, v: Tensor, partners: Tensor) -> tuple[Box, Tensor]:
    """Return the boxes that the partners give, and lower bounds of the margins on them."""
    box = cross_input_boxes(x, v, TAU_RATIO * EPS, partners, clip=None)
    with torch.no_grad():
        return box, net.margins(box, y.repeat_interleave(partners.shape[1]))


def draw_boxes(
    axes: Axes, net: BoundedNet, x: Tensor, y: Tensor, v: Tensor, partners: Tensor
) -> None:
    """Draw the boxes that the partners give: green where they are proved, else red."""
    show_regions(axes, net)
    box, margins = bound(net, x, y, v, partners)
    for low, high, proved in zip(box.lower, box.upper, margins.amin(1) > 0, strict=True):
        colour = "#1a7f37" if proved else "#c62828"
        show_square(axes, low, high, facecolor=f"{colour}40", edgecolor=colour, linewidth=1.2)
    for i, point in enumerate(x):
        show_square(
            axes, point - EPS, point + EPS, fill=False, edgecolor="0.35", ls="--", linewidth=0.8
        )
        for j in partners[i]:
            axes.annotate(
                "", (point + v[j]).tolist(), point.tolist(), arrowprops={"arrowstyle": "->"}
            )
        axes.plot(*point.tolist(), "o", color=_COLOURS[y[i]], markeredgecolor="black", zorder=5)


def boxes() -> Figure:
    """Draw the boxes that CITRUS trains on, and the one for each input that it leaves out."""
    net = train_in_two_dimensions(Citrus(TAU_RATIO, clip=None))
    x, y = five_points()
    v = PGD(clip=None)(net, x, y, (1 - TAU_RATIO) * EPS)
    figure = Figure((10, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    others = Groups(5)(5)
    own = torch.arange(5).unsqueeze(1)
    draw_boxes(left, net, x, y, v, others)
    draw_boxes(right, net, x, y, v, own)
    left.set_title("trained on: $x_i + v_j$, the others' perturbations", fontsize=10)
    right.set_title("left out: $x_i + v_i$, the input's own", fontsize=10)
    x, y = blobs(600)
    v = PGD(clip=None)(net, x, y, (1 - TAU_RATIO) * EPS)
    for name, partners in (("others", Groups(5)(600)), ("own", torch.arange(600).unsqueeze(1))):
        loss = robust_cross_entropy(bound(net, x, y, v, partners)[1]).mean()
        print(f"boxes: 600 new points, mean loss on the boxes of {name}: {float(loss):.3f}")
    return figure


def count_broken(net: BoundedNet, x: Tensor, y: Tensor) -> Tensor:
    """Return which inputs each u of a grid over the ε-ball breaks, (301, 301, n)."""
    side = torch.linspace(-EPS, EPS, 301)
    u = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1).view(-1, 1, 2)
    with torch.no_grad():
        classes = net((x + u).view(-1, 2)).argmax(1).view(len(u), len(x))
    return (classes != y).view(301, 301, len(x))


def groups() -> Figure:
    """Draw, for each perturbation u, how many of a group it breaks: what UCert bounds."""
    net = train_in_two_dimensions(Citrus(TAU_RATIO, clip=None))
    x, y = five_points()
    broken = count_broken(net, x, y)
    figure = Figure((10, 4.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    show_regions(left, net)
    for i, point in enumerate(x):
        alone = bool(broken[..., i].any())
        show_square(
            left, point - EPS, point + EPS, fill=False, edgecolor="#c62828" if alone else "#1a7f37"
        )
        left.plot(*point.tolist(), "o", color=_COLOURS[y[i]], markeredgecolor="black")
        left.annotate(f"$x_{i + 1}$", point.tolist(), (5, 5), textcoords="offset points")
    left.set_title("a group of five; red: can be broken alone", fontsize=10)
    show_counts(right, broken)
    uap = certify_uap(net, x, y, EPS, group_size=5)
    alone = int(broken.any(0).any(0).sum())
    print(
        f"groups: {alone} of 5 can be broken alone, at most {int(broken.sum(-1).max())} together "
        f"(grid); proved safe {int(uap.lower)}, safe under attack {int(uap.upper)}"
    )
    return figure


def show_counts(axes: Axes, broken: Tensor) -> None:
    """Map the ε-ball: how many inputs each u breaks, with the border of each input's set."""
    count = broken.sum(-1).numpy()
    colours = ListedColormap(["#f5f5f5", "#f4c9a4", "#dd8452", "#a23b2a", "#5d1a1a", "#000000"])
    extent = (-EPS, EPS, -EPS, EPS)
    picture = axes.imshow(
        count, origin="lower", extent=extent, cmap=colours, norm=BoundaryNorm(range(7), 6)
    )
    side = np.linspace(-EPS, EPS, 301)
    for i in range(broken.shape[-1]):
        mask = broken[..., i].numpy()
        if mask.any():
            axes.contour(side, side, mask, levels=[0.5], colors="black", linewidths=0.7)
            row, column = np.argwhere(mask).mean(0).astype(int)
            axes.text(side[column], side[row], f"$x_{i + 1}$", ha="center", va="center")
    bar = axes.figure.colorbar(picture, ax=axes, shrink=0.85)
    bar.set_ticks(np.arange(6) + 0.5, labels=range(6))
    bar.set_label("inputs broken by u")
    axes.set(xlabel="$u_1$", ylabel="$u_2$", xticks=[-0.1, 0, 0.1], yticks=[-0.1, 0, 0.1])
    axes.set_title("every u of the ε-ball: how many it breaks", fontsize=10)


def own_box() -> Figure:
    """Draw networks trained on the boxes of others, on both kinds, on the own, and on the ε-box."""
    eps, seeds = 0.04, range(3)
    losses = {
        "CITRUS: boxes of the others": Citrus(TAU_RATIO, clip=None),
        "CITRUS+SI: and the own box": Citrus(TAU_RATIO, pairing=Shifts(4, True), clip=None),
        "SABR: the own box alone": Sabr(TAU_RATIO, clip=None),
        "IBP: the whole ε-box": Ibp(clip=None),
    }
    figure = Figure((11, 3.3), layout="constrained")
    torch.manual_seed(100)
    x, y = spiral(300)
    for axes, (name, loss) in zip(figure.subplots(1, 4), losses.items(), strict=True):
        figures = []
        for seed in seeds:
            net = train_in_two_dimensions(loss, spiral, eps=eps, seed=seed)
            with torch.no_grad():
                standard = float((net(x).argmax(1) == y).float().mean())
            uap = certify_uap(net, x, y, eps, time_limit=2)
            figures.append((standard, uap.certified_accuracy, uap.attacked_accuracy))
            if seed == 0:
                show_regions(axes, net)
                for label in (0, 1):
                    points = x[y == label].T.tolist()
                    axes.plot(*points, ".", color=_COLOURS[label], markersize=2)
        standard, low, high = map(percent, np.mean(figures, axis=0))
        print(f"own_box: {name}: {np.round(figures, 3).tolist()}")
        axes.set_title(f"{name}\nstandard {standard} %, UCert {low} to {high} %", fontsize=9)
    return figure


# -- digits -------------------------------------------------------------------------


def train_digits(method: str = "citrus") -> tuple[BoundedNet, History]:
    """Train the digits preset; return the net in eval mode, and its history."""
    settings = config.resolve(preset="digits", method=method)
    net, loss = runs.build(settings, torch.device("cpu"))
    train = data.load("digits", train=True, data_dir=Path("data"))
    history = fit(net, loss, train, settings)
    return net.eval(), history


def uap() -> Figure:
    """Draw one perturbation of all images, crafted against a network trained without defence."""
    net, _ = train_digits(method="ce")
    train, test = (data.load("digits", train=part, data_dir=Path("data")) for part in (True, False))
    torch.manual_seed(0)
    eps = 0.2
    found = SgdUap()(net, train.pixels(slice(None)), train.labels, eps)
    x = test.pixels(slice(None))
    result = try_uap(net, x, test.labels, found.u)
    print(f"uap: {result!r}")
    with house_style({"text.color": "#7f7f7f"}):  # which can be read on white and on black
        return plots.draw_uap(result, x, eps, None, _DIGITS, figures.plain_figure())


def training() -> Figure:
    """Draw the curves of the digits preset."""
    _, history = train_digits()
    with house_style():
        figure, axes = figures.plain_axes(*plots.CURVES)
        plots.draw_curves(history, axes)
    return figure


def stages() -> Figure:
    """Draw which stage settled the images of the digits."""
    test = data.load("digits", train=False, data_dir=Path("data"))
    result = evaluate(train_digits()[0], test, _DIGITS, Protocol(eps=0.1, time_limit=1.0))
    print(f"stages: {result!r}")
    with house_style():
        figure, axes = figures.plain_axes(*plots.STAGES)
        plots.draw_stages(result, axes)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    f.__name__: f for f in (boxes, groups, own_box, uap, training, stages)
}


def main(names: list[str]) -> None:
    """Draw the figures of these names, or all."""
    if unknown := [name for name in names if name not in FIGURES]:
        sys.exit(f"no figure is named {unknown[0]}; there are {', '.join(FIGURES)}")
    torch.set_num_threads(1)
    for name in names or FIGURES:
        file = IMAGES / f"{name}.png"
        figure = FIGURES[name]()
        frame = {"bbox_inches": "tight", "pad_inches": 0.08, "transparent": name == "uap"}
        figure.savefig(file, dpi=120, **frame)
        print(f"{name}: {file}")


if __name__ == "__main__":
    main(sys.argv[1:])
