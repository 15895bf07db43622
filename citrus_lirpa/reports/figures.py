"""Figures and Axes: of pyplot, for notebooks, and without it, for files and pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure() -> Figure:
    """Make a figure of pyplot, which a notebook shows below the cell."""
    from matplotlib import pyplot

    return pyplot.figure(layout="constrained")


def plain_figure() -> Figure:
    """Make a figure without pyplot: no global state, no window system."""
    from matplotlib.figure import Figure

    return Figure(layout="constrained")


def plain_axes(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Make such a figure and its Axes, row by row; ``size`` is in inches."""
    figure, axes = grid(plain_figure(), rows, columns, size)
    return figure, list(axes.flat)


def grid(
    figure: Figure | None, rows: int, columns: int, size: tuple[float, float]
) -> tuple[Figure, np.ndarray]:
    """Give ``figure`` or a new one of pyplot the size and rows of Axes."""
    figure = new_figure() if figure is None else figure
    figure.set_size_inches(size)
    return figure, figure.subplots(rows, columns, squeeze=False)


def pair(
    axes: Sequence[Axes] | None, layout: tuple[int, int, tuple[float, float]]
) -> tuple[Axes, Axes]:
    """Take the two Axes given, or make new ones.

    Raises:
        InputError: Other than two are given.
    """
    if axes is None:
        axes = list(grid(None, *layout)[1].flat)
    if len(axes) != 2:
        raise InputError(f"{len(axes)} Axes are given; expected two, or none for new ones")
    return axes[0], axes[1]


def give_room(panel: Axes, empty: Axes) -> None:
    """Give ``panel`` the room of an empty one beside it, where both are of one grid."""
    mine, its = panel.get_subplotspec(), empty.get_subplotspec()
    if mine is not None and its is not None and mine.get_gridspec() is its.get_gridspec():
        panel.set_subplotspec(mine.get_gridspec()[:])
