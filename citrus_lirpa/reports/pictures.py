"""Pictures of plots as files: PNGs, each written whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..attacks import UapResult
from ..bounds.checks import Range, Scalar
from ..data.types import DatasetSpec
from ..formats.atomic import write_atomically
from ..verify import Evaluation, Smoothed
from .figures import plain_axes, plain_figure
from .palette import house_style
from .plots import CURVES, STAGES, draw_curves, draw_smoothed, draw_stages, draw_strongest, draw_uap
from .tables import percent, radius

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_curves(records: Sequence[dict[str, Any]], path: Path) -> Path:
    """Write :func:`draw_curves` as a PNG."""
    with house_style():
        figure, axes = plain_axes(*CURVES)
        draw_curves(records, axes)
        return write_picture(figure, path)


def plot_stages(result: Evaluation, path: Path) -> Path:
    """Write :func:`draw_stages` as a PNG, below the figures of the evaluation."""
    title = (
        f"UCert {percent(result.uap.certified_accuracy, ' %')}, under attack "
        f"{percent(result.uap.attacked_accuracy, ' %')}, ε = "
        f"{radius(result.protocol.eps, norm=result.protocol.norm)}"
    )
    with house_style():
        figure, axes = plain_axes(*STAGES)
        draw_stages(result, axes)
        figure.suptitle(title, fontsize=10)
        return write_picture(figure, path)


def plot_uap(result: Evaluation, spec: DatasetSpec, path: Path) -> Path | None:
    """Write :func:`draw_strongest` as a PNG. None, and no file, where no image is broken."""
    with house_style():
        return _write_or_remove(draw_strongest(result, spec, plain_figure()), path)


def plot_try(
    result: UapResult,
    x: torch.Tensor,
    eps: Scalar,
    clip: Range | None,
    spec: DatasetSpec,
    path: Path,
    norm: float = math.inf,
) -> Path | None:
    """Write :func:`draw_uap` as a PNG. None, and no file, where no image is broken."""
    with house_style():
        figure = draw_uap(result, x, eps, clip, spec, plain_figure(), norm)
        return _write_or_remove(figure, path)


def plot_smoothed(found: Smoothed, sigma: float, path: Path) -> Path:
    """Write :func:`draw_smoothed` as a PNG."""
    with house_style():
        figure, (axes,) = plain_axes(1, 1, (6, 3.8))
        draw_smoothed(found, sigma, axes)
        return write_picture(figure, path)


def write_picture(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG; an earlier file stays where that fails."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130))
    return path


def _write_or_remove(figure: Figure | None, path: Path) -> Path | None:
    """Write the figure; without one remove the file, which is of an earlier evaluation."""
    if figure is None:
        path.unlink(missing_ok=True)
        return None
    return write_picture(figure, path)
