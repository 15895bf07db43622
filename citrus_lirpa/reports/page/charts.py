"""Where the lines, points and ticks of a chart lie, in the units of its SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..compare import Run, pareto_front, radius

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 38


@dataclass(frozen=True)
class Line:
    """A polyline and its last point; ``kind`` is its CSS class, ``closed`` a path to fill."""

    label: str
    kind: str
    points: str
    end: tuple[float, float]
    closed: str = ""


@dataclass(frozen=True)
class Dot:
    """A run: its point, the end of the bar above it, its number, and what it is."""

    x: float
    y: float
    top: float
    number: int
    title: str


@dataclass(frozen=True)
class Chart:
    """Ticks are (position, text)."""

    title: str
    x_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def curves(epochs: Sequence[dict[str, Any]]) -> list[Chart]:
    """Loss with ε, and accuracies in percent, over the epochs of a training."""
    losses = _series(epochs, "loss")
    radii = _series(epochs, "eps")
    x = _Axis(_ends([e["epoch"] for e in epochs]), (_LEFT, WIDTH - _RIGHT))
    y = _Axis((0, max(v for _, v in losses) * 1.05 or 1.0), (HEIGHT - _BOTTOM, _TOP))
    ramp = _Axis((0, max(v for _, v in radii) * 1.05 or 1.0), (HEIGHT - _BOTTOM, _TOP))
    x_ticks = x.ticks(whole=True)
    loss = Chart(
        "Training loss, and the ε it is trained at",
        "epoch",
        x_ticks,
        y.ticks(),
        [
            _line(
                f"ε, up to {radius(max(v for _, v in radii))}", "ramp", radii, x, ramp, fill=True
            ),
            _line("loss", "loss", losses, x, y),
        ],
    )
    shares = [
        (label, kind, [(a, 100 * b) for a, b in _series(epochs, key)])
        for key, label, kind in (
            ("accuracy", "accuracy on clean batches", "clean"),
            ("certified", "boxes certified", "proved"),
        )
    ]
    shares = [series for series in shares if series[2]]
    lowest = min((v for _, _, points in shares for _, v in points), default=0.0)
    y = _Axis((max(0, 10 * (lowest // 10)), 100), (HEIGHT - _BOTTOM, _TOP))
    lines = [_line(label, kind, points, x, y) for label, kind, points in shares]
    return [loss, Chart("On training batches, in percent", "epoch", x_ticks, y.ticks(), lines)]


def pareto(runs: Sequence[Run], numbers: dict[str, int]) -> Chart:
    """Standard accuracy against UCert of runs of one setting, with the front; in percent.

    numbers: by which a run is known, by its name.
    """
    width, height = 480, 300
    points = {run.run: _point(run) for run in runs}
    x = _Axis(_margin([p[0] for p in points.values()]), (_LEFT, width - _RIGHT))
    tops = [100 * run.attacked_uap_accuracy for run in runs]
    y = _Axis(_margin([*(p[1] for p in points.values()), *tops]), (height - _BOTTOM, _TOP))
    corners, left = [], x.low
    for run in pareto_front(runs):
        corners += [(left, points[run.run][1]), points[run.run]]
        left = points[run.run][0]
    corners.append((left, y.low))
    dots = [
        Dot(
            x(points[run.run][0]),
            y(points[run.run][1]),
            y(100 * run.attacked_uap_accuracy),
            numbers[run.run],
            f"{run.run}: standard {points[run.run][0]:.2f} %, UCert {points[run.run][1]:.2f} %",
        )
        for run in runs
    ]
    return Chart(
        "UCert (vertical) against standard accuracy, in percent",
        "standard accuracy",
        x.ticks(),
        y.ticks(),
        [_line("Pareto front", "front", corners, x, y)],
        dots,
        width,
        height,
        right=width - _RIGHT,
        bottom=height - _BOTTOM,
    )


class _Axis:
    """Values to positions: ``ends`` (low, high) lie at ``places``."""

    def __init__(self, ends: tuple[float, float], places: tuple[float, float]):
        (self.low, self.high), self.places = ends, places

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.places[0] + share * (self.places[1] - self.places[0]), 1)

    def ticks(self, *, whole: bool = False) -> list[tuple[float, str]]:
        from matplotlib.ticker import MaxNLocator

        values = MaxNLocator(5, integer=whole).tick_values(self.low, self.high)
        return [(self(v), f"{v:.6g}") for v in values if self.low <= v <= self.high]


def _series(epochs: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(epoch, value) of the epochs that have one."""
    return [(e["epoch"], e[key]) for e in epochs if e.get(key) is not None]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _margin(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.15 * (high - low) or 1.0
    return max(0.0, low - room), min(100.0 + room / 3, high + room)


def _point(run: Run) -> tuple[float, float]:
    return 100 * run.standard_accuracy, 100 * run.certified_uap_accuracy


def _line(label: str, kind: str, points: Points, x: _Axis, y: _Axis, *, fill: bool = False) -> Line:
    path = " ".join(f"{x(a)},{y(b)}" for a, b in points)
    floor = y.places[0]
    closed = f"{x(points[0][0])},{floor} {path} {x(points[-1][0])},{floor}" if fill else ""
    end = (x(points[-1][0]), y(points[-1][1]))
    return Line(label, kind, path, end, closed)
