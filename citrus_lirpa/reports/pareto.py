"""The picture of compared runs: standard against certified UAP accuracy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..formats.atomic import write_atomically
from .compare import Run, by_setting, pareto_front
from .plots import new_figure, plain_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_COLUMNS = 2  # axes beside each other
_SIZE = (6.4, 5.0)  # inches of one axes
_MARKERS = "osD^"  # ten colours each
#: Where a label may stand, in points from its point, in the order of preference.
_OFFSETS = [
    (
        round(distance * math.cos(turn * math.pi / 8), 1),
        round(distance * math.sin(turn * math.pi / 8), 1),
    )
    for distance in (8, 14, 22, 32, 44, 58, 74)
    for turn in (0, 8, 15, 7, 1, 9, 14, 6, 2, 10, 13, 5, 3, 11, 12, 4)
]
_NEAR = 10.0  # points; a label farther away gets a line to its point


def plot_pareto(runs: Sequence[Run], path: Path) -> Path:
    """One axes for each setting, a point for each run, the Pareto front as steps; a PNG.

    A bar leads from UCert, which is proved, up to the accuracy under attack.
    """
    figure = draw_pareto(runs, plain_figure())
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130))
    return path


def draw_pareto(runs: Sequence[Run], figure: Figure | None = None) -> Figure:
    """The picture of ``plot_pareto``; runs: of ``compare.read_runs``.

    figure: to draw on, which is resized; None makes one of pyplot, which a notebook shows.
    """
    figure = new_figure() if figure is None else figure
    settings = by_setting(runs)
    columns = min(_COLUMNS, len(settings))
    rows = math.ceil(len(settings) / columns)
    figure.set_size_inches(columns * _SIZE[0], rows * _SIZE[1])
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    styles = _styles(runs)
    for axes, (setting, members) in zip(panels, settings.items(), strict=False):
        _draw_runs(axes, members, styles)
        axes.set_title(setting, fontsize=9)
    for axes in panels[len(settings) :]:
        axes.remove()
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncol=2, fontsize=8, frameon=False)
    figure.draw_without_rendering()  # what the labels cover is known once all else has its place
    for axes, members in zip(panels, settings.values(), strict=False):
        _place_labels(axes, members, styles)
    return figure


def _styles(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each training method, the same in all axes."""
    methods = dict.fromkeys(run.method for run in runs)
    return {
        method: {"color": f"C{i % 10}", "marker": _MARKERS[i // 10 % len(_MARKERS)]}
        for i, method in enumerate(methods)
    }


def _point(run: Run) -> tuple[float, float]:
    return 100 * run.standard_accuracy, 100 * run.certified_uap_accuracy


def _draw_runs(axes: Axes, runs: Sequence[Run], styles: dict[str, dict[str, Any]]) -> None:
    for run in runs:
        (x, y), style = _point(run), styles[run.method]
        axes.vlines(x, y, 100 * run.attacked_uap_accuracy, color=style["color"], linewidth=1.2)
        axes.plot(x, y, **style, markersize=5.5, markeredgecolor="white", linestyle="", zorder=4)
    axes.margins(0.14)
    axes.set(xlabel="standard accuracy (%)", ylabel="UCert (%)")
    axes.grid(alpha=0.25)
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # as they are before the front's ends
    front: dict[str, Any] = {"color": "0.6", "linewidth": 1, "linestyle": "--", "zorder": 1}
    axes.plot(*zip(*_steps(axes, runs), strict=True), **front, label="Pareto front")
    bar = "point: certified average UAP accuracy (UCert), bar: up to that under attack"
    axes.plot([], [], color="0.3", linewidth=1.2, marker="o", markersize=5.5, label=bar)


def _steps(axes: Axes, runs: Sequence[Run]) -> list[tuple[float, float]]:
    """Corners of the front, from the left end of the axes to the bottom."""
    corners, left = [], axes.get_xlim()[0]
    for x, y in map(_point, pareto_front(runs)):
        corners += [(left, y), (x, y)]
        left = x
    return [*corners, (left, axes.get_ylim()[0])]


def _labels(runs: Sequence[Run]) -> list[str]:
    """The method of each run, with the run's name where there are several of a method."""
    count = Counter(run.method for run in runs)
    return [r.method if count[r.method] == 1 else f"{r.method} ({r.run})" for r in runs]


def _place_labels(axes: Axes, runs: Sequence[Run], styles: dict[str, dict[str, Any]]) -> None:
    """Put each label where it covers least, in the colour of its point."""
    front = _steps(axes, runs)
    lines = [_box(axes, *ends, 1) for ends in zip(front, front[1:], strict=False)]
    bars = [(_point(run), (_point(run)[0], 100 * run.attacked_uap_accuracy)) for run in runs]
    taken = [_box(axes, *bar, 5) for bar in bars]
    for run, text in zip(runs, _labels(runs), strict=True):
        colour = styles[run.method]["color"]
        label = _annotate(axes, text, _point(run), color=colour, fontsize=8, zorder=3)
        label.set_bbox({"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.3})
        best = min(_OFFSETS, key=lambda offset: _cost(axes, label, offset, taken, lines))
        taken.append(_move(label, best))
        if math.hypot(*best) > _NEAR:
            line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0}
            _annotate(axes, "", _point(run), best, arrowprops=line)


def _cost(
    axes: Axes, label: Annotation, offset: tuple[float, float], taken: list[Bbox], lines: list[Bbox]
) -> float:
    """How bad a place is: what the label covers there, what its line crosses, how far it is."""
    from matplotlib.path import Path as Segment

    box = _move(label, offset)
    outside = not all(axes.bbox.contains(*corner) for corner in (box.min, box.max))
    start = axes.transData.transform(label.xy)
    end = start + [length * axes.figure.dpi / 72 for length in offset]
    crossed = sum(Segment([start, end]).intersects_bbox(other) for other in taken)
    covered = 4 * (box.count_overlaps(taken) + outside) + box.count_overlaps(lines)
    return covered + crossed + math.hypot(*offset) / 40


def _annotate(
    axes: Axes,
    text: str,
    point: tuple[float, float],
    offset: tuple[float, float] = (0, 0),
    **options: Any,
) -> Annotation:
    return axes.annotate(
        text, point, xytext=offset, textcoords="offset points", in_layout=False, **options
    )


def _move(label: Annotation, offset: tuple[float, float]) -> Bbox:
    """Put ``label`` at ``offset`` points from its point; the pixels it covers there."""
    x, y = offset
    label.set(
        position=offset,
        horizontalalignment="left" if x > 0 else "right" if x < 0 else "center",
        verticalalignment="bottom" if y > 0 else "top" if y < 0 else "center",
    )
    return label.get_window_extent()


def _box(axes: Axes, start: tuple[float, float], end: tuple[float, float], width: float) -> Bbox:
    """The pixels of a line of the axes that is ``width`` pixels wide to each side."""
    from matplotlib.transforms import Bbox

    return Bbox(axes.transData.transform([start, end])).padded(width)
