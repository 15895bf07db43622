"""The picture of fronts: standard accuracy against UCert of tuned methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runs.tuning.points import Point
from .fronts import Fronts
from .palette import COLOURS, METHODS, house_style
from .pictures import write_picture
from .plots import plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^"  # ten colours each


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

    Args:
        axes: To draw on.
        fronts: The studies.
    """
    for number, one in enumerate(fronts.tuned):
        colour, marker = METHODS[number % 10], _MARKERS[number // 10 % len(_MARKERS)]
        front = fronts.front(one)
        rest = [point for point in fronts.points(one) if point not in front]
        axes.scatter(*_percents(rest), s=14, marker=marker, color=colour, alpha=0.35, linewidths=0)
        axes.scatter(
            *_percents(front), s=34, marker=marker, color=colour, zorder=4, label=one.study.name
        )
        bars: dict[str, Any] = {"color": colour, "alpha": 0.4, "linewidth": 3}
        for point in front:
            if point.spread is not None:
                x, y = 100 * point.standard, 100 * point.ucert
                spread = [100 * share for share in point.spread]
                axes.errorbar(x, y, yerr=spread[1], xerr=spread[0], **bars)
    axes.margins(0.08)
    axes.set(xlabel="standard accuracy (%)", ylabel="UCert (%)")
    axes.grid(color=COLOURS["line"])
    axes.set_axisbelow(True)
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # as they are before the fronts' ends
    for number, one in enumerate(fronts.tuned):
        axes.plot(*_steps(axes, fronts.front(one)), color=METHODS[number % 10], linewidth=1)
    axes.legend(fontsize=8, frameon=False)


def _percents(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [100 * p.standard for p in points], [100 * p.ucert for p in points]


def _steps(axes: Axes, front: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Corners of a front, from the left end of the axes to the bottom."""
    xs, ys, left = [], [], axes.get_xlim()[0]
    for x, y in zip(*_percents(front), strict=True):
        xs += [left, x]
        ys += [y, y]
        left = x
    return [*xs, left], [*ys, axes.get_ylim()[0]]
