"""The picture of compared runs: standard against certified UAP accuracy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compare import Run, by_setting, pareto_front
from .figures import new_figure, plain_figure
from .palette import COLOURS, house_style, style_of
from .pictures import write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

_COLUMNS = 2  # axes beside each other
_SIZE = (7.4, 4.8)  # inches of one axes with its legend
_NEAR = 0.05  # of the axes' sides: height of a label, and width of a number in it


def plot_pareto(runs: Sequence[Run], path: Path) -> Path:
    """Write :func:`draw_pareto` as a PNG."""
    with house_style():
        return write_picture(draw_pareto(runs, plain_figure()), path)


def draw_pareto(runs: Sequence[Run], figure: Figure | None = None) -> Figure:
    """Draw a numbered point for each run, and the Pareto front as steps.

    Each setting has its own axes, with a legend that names the runs, highest UCert first. A bar
    leads from UCert, which is proved, up to the accuracy under attack.

    Args:
        runs: Of ``compare.read_runs``.
        figure: To draw on, which is resized; None makes one of pyplot, which a notebook shows.

    Returns:
        The figure.
    """
    figure = new_figure() if figure is None else figure
    settings = by_setting(runs)
    columns = min(_COLUMNS, len(settings))
    rows = math.ceil(len(settings) / columns)
    figure.set_size_inches(columns * _SIZE[0], rows * _SIZE[1])
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    styles = _styles(runs)
    for axes, (setting, members) in zip(panels, settings.items(), strict=False):
        draw_runs(axes, members, range(1, len(members) + 1), styles)
        axes.set_title(str(setting), fontsize=9)
        _name_runs(axes, members, styles)
    for axes in panels[len(settings) :]:
        axes.remove()
    front, *_ = panels[0].get_lines()
    point = "point: UCert, filled where it lies on the front; bar: up to the accuracy under attack"
    bar = panels[0].plot([], [], color=COLOURS["soft"], linewidth=1.2, marker="o", markersize=5.5)
    figure.legend(
        [front, *bar], ["Pareto front", point],
        loc="outside lower center", ncol=2, fontsize=8, frameon=False,
    )  # fmt: skip
    return figure


def draw_runs(
    axes: Axes, runs: Sequence[Run], numbers: Sequence[int], styles: Mapping[str, dict[str, Any]]
) -> list[PathCollection]:
    """Draw the runs of a setting, each with its number, and their Pareto front.

    ``styles`` has colour and marker of each training method. Return the point of each run.
    """
    dots, front = [], pareto_front(runs)
    for run in runs:
        (x, y), style = _point(run), styles[run.method]
        axes.vlines(x, y, 100 * run.attacked_uap_accuracy, color=style["color"], linewidth=1.2)
        dots.append(_dot(axes, x, y, style, filled=run in front))
    name_accuracies(axes, 0.14)
    line = {"color": COLOURS["wrong"], "linestyle": "--", "zorder": 1}
    draw_steps(axes, map(_point, pareto_front(runs)), line)
    for point, text in _labels(axes, runs, numbers).items():
        label = axes.annotate(text, point, (5, -3), textcoords="offset points", va="top", zorder=3)
        label.set(fontsize=9)
        label.set_bbox(
            {"facecolor": COLOURS["card"], "alpha": 0.7, "edgecolor": "none", "pad": 0.3}
        )
    return dots


def name_accuracies(axes: Axes, margin: float) -> None:
    """Name the axes of standard accuracy and UCert, and fix their ends at what is drawn so far."""
    axes.margins(margin)
    axes.set(xlabel="standard accuracy (%)", ylabel="UCert (%)")
    axes.grid(color=COLOURS["line"])
    axes.set_axisbelow(True)
    axes.set(xlim=_percents(*axes.get_xlim()), ylim=_percents(*axes.get_ylim()))


def _percents(low: float, high: float) -> tuple[float, float]:
    """Narrow an axis so that no tick is below 0 or above 100; dots at its ends are whole."""
    low, high = max(low, -max(high, 1) / 20), max(high, 1)
    return low, min(high, 100 + (100 - low) / 20)


def draw_steps(axes: Axes, front: Iterable[tuple[float, float]], style: dict[str, Any]) -> None:
    """Draw a front as steps, from the left end of the axes to the bottom.

    Its points begin with the lowest standard accuracy.
    """
    corners, left = [], axes.get_xlim()[0]
    for x, y in front:
        corners += [(left, y), (x, y)]
        left = x
    corners.append((left, axes.get_ylim()[0]))
    axes.plot(*zip(*corners, strict=True), linewidth=1, **style)


def _dot(axes: Axes, x: Any, y: Any, style: dict[str, Any], *, filled: bool) -> PathCollection:
    """Draw a point, hollow where it does not lie on the front."""
    dot = axes.scatter(x, y, **{"s": 30, "linewidths": 1.2, "zorder": 4, **style})
    if not filled:
        dot.set(facecolor=COLOURS["card"], edgecolor=style["color"])
    return dot


def _styles(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each training method, the same in all axes."""
    methods = dict.fromkeys(run.method for run in runs)
    return {method: style_of(i) for i, method in enumerate(methods)}


def _point(run: Run) -> tuple[float, float]:
    return 100 * run.standard_accuracy, 100 * run.certified_uap_accuracy


def _labels(
    axes: Axes, runs: Sequence[Run], numbers: Sequence[int]
) -> dict[tuple[float, float], str]:
    """The numbers at each point; those of runs that lie too near to each other stand together.

    A label stands to the right of its point, so that one of several numbers needs more room there.
    """
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    together: dict[tuple[float, float], list[int]] = {}
    for (x, y), number in sorted(zip(map(_point, runs), numbers, strict=True)):
        near = (
            (a, b)
            for (a, b), those in together.items()
            if x - a < _NEAR * (right - left) * (1 + len(those))
            and abs(b - y) < _NEAR * (top - bottom)
        )
        together.setdefault(next(near, (x, y)), []).append(number)
    return {point: ", ".join(map(str, sorted(those))) for point, those in together.items()}


def _name_runs(axes: Axes, runs: Sequence[Run], styles: Mapping[str, dict[str, Any]]) -> None:
    """Put the legend of the numbers beside the axes: each run's method, and name if needed."""
    count = Counter(run.method for run in runs)
    names = [r.method if count[r.method] == 1 else f"{r.method} ({r.run})" for r in runs]
    front = pareto_front(runs)
    dots = [_dot(axes, [], [], styles[run.method], filled=run in front) for run in runs]
    axes.legend(
        dots, [f"{number}  {name}" for number, name in enumerate(names, 1)],
        loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False, handletextpad=0.2,
    )  # fmt: skip
