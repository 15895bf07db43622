"""The picture of fronts: standard accuracy against UCert of tuned methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runs.tuning.points import Point
from .figures import plain_axes
from .fronts import Fronts
from .palette import COLOURS, house_style, style_of
from .pareto import draw_steps, name_accuracies
from .pictures import write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_fronts(fronts: Fronts, path: Path) -> Path:
    """Write :func:`draw_fronts` as a PNG."""
    with house_style():
        figure, (axes,) = plain_axes(1, 1, (7.4, 4.8))
        draw_fronts(axes, fronts)
        axes.set_title(fronts.setting(), fontsize=9)
        return write_picture(figure, path)


def draw_fronts(axes: Axes, fronts: Fronts) -> None:
    """Draw each study's points, filled on its front, and the front as steps.

    Points of several networks have bars of one standard deviation.
    """
    for number, one in enumerate(fronts.tuned):
        style, front = style_of(number), fronts.front(one)
        rest = [point for point in fronts.points(one) if point not in front]
        axes.scatter(*_percents(rest), s=14, alpha=0.35, linewidths=0, **style)
        axes.scatter(*_percents(front), s=34, zorder=4, label=one.study.name, **style)
        bars: dict[str, Any] = {"color": style["color"], "alpha": 0.4, "linewidth": 3}
        for point in front:
            if point.spread is not None:
                x, y = 100 * point.standard, 100 * point.ucert
                spread = [100 * share for share in point.spread]
                axes.errorbar(x, y, yerr=spread[1], xerr=spread[0], **bars)
    name_accuracies(axes, 0.08)
    for number, one in enumerate(fronts.tuned):
        points = zip(*_percents(fronts.front(one)), strict=True)
        draw_steps(axes, points, {"color": style_of(number)["color"]})
    ground: dict[str, Any] = {"frameon": True, "facecolor": COLOURS["card"], "edgecolor": "none"}
    axes.legend(fontsize=8, **ground).set_zorder(6)


def _percents(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [100 * p.standard for p in points], [100 * p.ucert for p in points]
