"""Pictures of training runs and evaluations, drawn on given or new Axes, which are returned.

New Axes are made by pyplot, so that a notebook shows them below its cell. Given ones, of any
figure, are drawn on as they are: that is how files and pages are made without a window system.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from ..attacks import UapResult
from ..bounds.checks import Range, Scalar
from ..bounds.radius import largest
from ..data.types import DatasetSpec
from ..errors import InputError
from ..runs.perturbations import one_a_class_first
from ..training.metrics import History
from ..verify import Evaluation, Smoothed
from .figures import give_room, grid, new_figure, pair
from .palette import ATTACKS, COLOURS, PROVED
from .tables import clipping, percent, radius

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 6  # images in the picture of a perturbation
_CLASSES = 10  # classes in that of one perturbation a class
#: Rows and columns of Axes, and inches, of a new figure.
CURVES, STAGES = (1, 2, (10, 3.8)), (2, 1, (9, 3.6))
_LEFT = {name: COLOURS[name] for name in ("undecided", "broken", "wrong")}
_Pixels = TypeVar("_Pixels", torch.Tensor, np.ndarray)


# -- charts ---------------------------------------------------------------------------


def draw_curves(
    history: History | Sequence[dict[str, Any]], axes: Sequence[Axes] | None = None
) -> tuple[Axes, Axes]:
    """Draw loss and ε over the epochs, and beside it the shares of the training batches.

    Args:
        history: Of :func:`fit`, or its records, such as the lines of metrics.jsonl.
        axes: Two Axes to draw on; None makes new ones.

    Returns:
        The two Axes.

    Raises:
        InputError: There is no epoch, or not two Axes.
    """
    from matplotlib.ticker import MaxNLocator

    records = history.records if isinstance(history, History) else history
    if not records:
        raise InputError("there is no epoch to draw; train first")
    left, right = pair(axes, CURVES)
    _draw_shares(right, records)
    if not right.get_visible():
        give_room(left, right)
    _draw_losses(left, records)
    whole = {"integer": True, "min_n_ticks": 1, "steps": [1, 2, 5, 10]}
    for panel in (left, right):
        panel.set_xlabel("epoch")
        panel.grid(color=COLOURS["line"])
        panel.xaxis.set_major_locator(MaxNLocator("auto", **whole))
    return left, right


def draw_stages(result: Evaluation, axes: Sequence[Axes] | None = None) -> tuple[Axes, Axes]:
    """Draw what settled the images, and where the time went, as two stacked bars.

    Args:
        result: The evaluation.
        axes: Two Axes to draw on; None makes new ones.

    Returns:
        The two Axes.

    Raises:
        InputError: There are not two Axes.
    """
    shares = result.shares()
    seconds = {**result.certificates.seconds, **result.uap.seconds}
    proving = [name for name in shares if name not in _LEFT]
    colours = {name: PROVED[min(i, len(PROVED) - 1)] for i, name in enumerate(proving)}
    colours |= {**_LEFT, **ATTACKS}
    panels = pair(axes, STAGES)
    for panel, values, axis, unit in (
        (panels[0], {k: 100 * v / len(result.y) for k, v in shares.items()}, "% of images", "%"),
        (panels[1], seconds, "seconds", "s"),
    ):
        left, total = 0.0, sum(values.values())
        for name, value in values.items():
            if value:
                label = f"{name} {value:.3g} {unit}"
                panel.barh(0, value, left=left, color=colours[name], label=label)
                left += value
        panel.set(xlabel=axis, yticks=[], xlim=(0, max(total, 1e-9)))
        panel.legend(ncol=5, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, frameon=False)
    return panels


def draw_smoothed(found: Smoothed, sigma: float, axes: Axes | None = None) -> Axes:
    """Draw the certified accuracy of a smoothed network over the ℓ2 radius, as steps.

    Args:
        found: What is certified.
        sigma: σ of the noise.
        axes: The Axes to draw on; None makes new ones.

    Returns:
        The Axes.
    """
    axes = new_figure().subplots() if axes is None else axes
    right = found.radius[found.predicted == found.y].sort().values.tolist()
    shares = [100 * (len(right) - i) / len(found.y) for i in range(len(right) + 1)]
    axes.stairs(shares, [0, *right, max([*right, sigma]) * 1.05], color=COLOURS["p4"], lw=1.5)
    axes.set(xlabel="l2 radius", ylabel="certified accuracy (%)", ylim=(0, 101), xlim=(0, None))
    axes.set_title(f"Smoothed network, σ = {sigma:g}: probabilistic guarantee", fontsize=10)
    axes.grid(color=COLOURS["line"])
    return axes


# -- perturbations --------------------------------------------------------------------


def draw_strongest(
    result: Evaluation, spec: DatasetSpec, figure: Figure | None = None
) -> Figure | None:
    """Draw the strongest perturbation of an evaluation beside images that it breaks.

    Args:
        result: The evaluation.
        spec: Its data set.
        figure: To draw on, which is resized; None makes a new one.

    Returns:
        The figure, or None where no image is broken.
    """
    before, after = result.predictions
    hit = (result.certificates.correct & (after != result.y)).nonzero().flatten()[:_SHOWN].tolist()
    if not hit:
        return None
    shown = [(result.x[i], spec.class_names[before[i]], spec.class_names[after[i]]) for i in hit]
    title = (
        f"Strongest universal perturbation found: breaks {percent(result.fooling_rate, ' %')} "
        f"of {int(result.certificates.correct.sum())} correct images"
    )
    protocol = result.protocol
    return _beside(result.strongest, protocol.eps, protocol.norm, shown, title, figure)


def draw_uap(
    result: UapResult,
    x: torch.Tensor,
    eps: Scalar,
    clip: Range | None,
    spec: DatasetSpec,
    figure: Figure | None = None,
    norm: float = math.inf,
) -> Figure | None:
    """Draw the perturbation beside images it breaks, or for each class its own above one of them.

    Of many classes those most fooled are shown.

    Args:
        result: The result of the attack.
        x: The images attacked, (N, C, H, W).
        eps: Radius of the perturbation, in pixels.
        clip: Range that perturbed images are cut to, or None.
        spec: The data set.
        figure: To draw on, which is resized; None makes a new one.
        norm: The norm of ε.

    Returns:
        The figure, or None where no image is broken.
    """
    names, broken = spec.class_names, result.broken.nonzero().flatten()
    if len(broken) == 0:
        return None
    start = f"ε = {radius(eps, norm=norm)}, {clipping(clip)}: "
    end = f"{percent(result.fooling_rate, ' %')} of {int(result.correct.sum())} correct images"
    if len(result.u) > 1:
        title = f"A universal perturbation for each class, {start}together they break {end}"
        return _class_wise(result, x, eps if norm == math.inf else None, spec, title, figure)
    hit = one_a_class_first(broken.tolist(), result.y.tolist())[:_SHOWN]
    shown = [(x[i], names[result.clean[i]], names[result.moved[i]]) for i in hit]
    title = f"Universal perturbation, {start}breaks {end}"
    return _beside(result.u[0].cpu(), eps, norm, shown, title, figure)


def as_pixels(u: _Pixels, eps: Scalar | None) -> _Pixels:
    """Turn a perturbation into pixels: -ε is black, 0 grey, +ε white, ε the largest of a map.

    Without ε, the largest change of a pixel stands in for it.
    """
    most = float(abs(u).max()) if eps is None else largest(eps)
    return u / (2 * most) + 0.5 if most else 0 * u + 0.5


# -- parts of them ----------------------------------------------------------------------


def _draw_losses(axes: Axes, records: Sequence[dict[str, Any]]) -> None:
    """Draw the loss, and ε with its own scale to the right, the area below it shaded."""
    epochs, eps = [r["epoch"] for r in records], [r["eps"] for r in records]
    _line(axes, epochs, [r["loss"] for r in records], "loss", COLOURS["accent"])
    axes.set(ylabel="loss", title="Training loss and ε")
    ramp = axes.twinx()
    _line(ramp, epochs, eps, "ε", COLOURS["wrong"], linestyle="--")
    area = [epochs[0], *epochs, epochs[-1]], [0, *eps, 0]
    ramp.fill(*area, color=COLOURS["wrong"], alpha=0.15, linewidth=0)
    ramp.set(ylabel="ε (pixels in [0, 1])", ylim=(0, None))
    axes.set_zorder(ramp.get_zorder() + 1)  # the loss above the area
    axes.patch.set_visible(False)
    axes.legend(handles=axes.get_lines() + ramp.get_lines(), loc="center right")


def _draw_shares(axes: Axes, records: Sequence[dict[str, Any]]) -> None:
    """Draw the shares that are known, from the multiple of ten below the lowest one."""
    lowest = 100.0
    for key, label, colour in (
        ("accuracy", "clean accuracy", COLOURS["soft"]),
        ("certified", "boxes certified", COLOURS["p4"]),
    ):
        points = [(r["epoch"], 100 * r[key]) for r in records if r.get(key) is not None]
        if points:
            epochs, shares = zip(*points, strict=True)
            _line(axes, epochs, shares, label, colour)
            lowest = min(lowest, *shares)
    axes.set(ylabel="%", title="Training batches")
    axes.set_ylim(min(90, 10 * (lowest // 10)), 101)  # a dot at 100 is whole
    known = bool(axes.get_lines())
    axes.set_visible(known)  # of a denoiser nothing is
    if known:
        axes.legend(loc="lower right")


def _line(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    label: str,
    colour: str,
    linestyle: str = "-",
) -> None:
    """Draw a line with a dot at its end, so that a single point is seen."""
    axes.plot(
        x, y, color=colour, linestyle=linestyle, label=label,
        marker="o", markersize=4, markevery=[len(x) - 1],
    )  # fmt: skip


def _class_wise(
    result: UapResult,
    x: torch.Tensor,
    eps: Scalar | None,
    spec: DatasetSpec,
    title: str,
    figure: Figure | None,
) -> Figure:
    """Draw a column for each class: its perturbation, an image, and the image broken by it."""
    parts = {k: result.of_class(k) for k in range(spec.classes)}
    strongest = sorted(parts, key=lambda k: parts[k].fooling_rate, reverse=True)[:_CLASSES]
    figure, axes = grid(figure, 3, len(strongest), (1.45 * len(strongest) + 0.2, 5))
    for panel in axes.flat:
        panel.axis("off")
    for column, k in enumerate(sorted(strongest)):
        u = result.u[k].cpu()
        breaks = percent(parts[k].fooling_rate, " %")
        _show(axes[0][column], as_pixels(u, eps), f"u: breaks {breaks}")
        for i in (result.broken & (result.y == k)).nonzero().flatten()[:1].tolist():
            _show(axes[1][column], x[i], spec.class_names[k])
            _show(axes[2][column], x[i] + u, f"with u: {spec.class_names[result.moved[i]]}")
    figure.suptitle(title, fontsize=10)
    return figure


def _beside(
    u: torch.Tensor,
    eps: Scalar,
    norm: float,
    shown: list[tuple[torch.Tensor, str, str]],
    title: str,
    figure: Figure | None,
) -> Figure:
    """Draw u (C, H, W) beside images without and with it: (image, class, class with u) each."""
    figure, axes = grid(figure, 2, len(shown) + 1, (max(1.6 * (len(shown) + 1), 6), 3.9))
    scale, bars = (None, "‖u‖₂") if norm == 2 else (eps, "|u|")
    _show(axes[0][0], as_pixels(u, scale), f"u, {bars} ≤ {radius(eps)}")
    axes[1][0].axis("off")
    for column, (image, before, after) in enumerate(shown, start=1):
        _show(axes[0][column], image, before)
        _show(axes[1][column], image + u, f"with u: {after}")
    figure.suptitle(title, fontsize=10)
    return figure


def _show(axes: Axes, image: torch.Tensor, title: str) -> None:
    pixels = image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    grey = pixels.shape[2] == 1
    axes.imshow(pixels[..., 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=1)
    axes.set_title(title, fontsize=8)
    axes.set(xticks=[], yticks=[])
    axes.set_axis_on()
    axes.spines[:].set_visible(True)  # a white margin is part of the picture
