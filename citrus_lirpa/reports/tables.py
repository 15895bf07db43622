"""Tables of training runs and evaluations, and files of their pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..attacks import UapResult
from ..bounds.checks import Range
from ..data.types import DatasetSpec
from ..formats.atomic import write_atomically
from ..verify import Evaluation
from .plots import (
    CURVES,
    STAGES,
    describe_range,
    draw_curves,
    draw_stages,
    draw_strongest,
    draw_uap,
    plain_axes,
    plain_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def epoch_line(record: dict[str, Any]) -> str:
    """One epoch of training in one line."""
    kappa = record.get("kappa")  # runs of earlier versions have none
    common = "" if kappa is None else f"κ ≥ {kappa}, "
    return (
        f"epoch {record['epoch']}: ε {record['eps']:.4f}, loss {record['loss']:.3f}, training "
        f"accuracy {_percent(record['accuracy'])}, boxes certified "
        f"{_percent(record['certified'])}, {common}{record['seconds']:.1f} s"
    )


def evaluation_table(result: Evaluation) -> str:
    """Accuracies in percent of all images, with the seconds each stage took."""
    certificates, uap, protocol = result.certificates, result.uap, result.protocol
    rows = [("standard accuracy", _percent(_mean(certificates.correct)), "")]
    for method in certificates.methods:
        note = f"{certificates.seconds[method]:.1f} s"
        if method in certificates.unsupported:
            note = f"not possible: {certificates.unsupported[method]}"
        if certificates.not_fitting[method]:
            note += f", {certificates.not_fitting[method]} images did not fit into memory"
        rows.append(
            (f"certified by {method}", _percent(_mean(certificates.certified_by(method))), note)
        )
    spent = sum(uap.seconds.values())
    gap = int((uap.upper - uap.lower).sum())
    rows += [
        (
            "UCert (certified average UAP accuracy)",
            _percent(uap.certified_accuracy),
            f"lower bound, proved; group stage {spent:.1f} s",
        ),
        (
            "UAP accuracy under attack",
            _percent(uap.attacked_accuracy),
            f"upper bound; {gap} images between the two",
        ),
    ]
    kind = "held-out" if protocol.held_out else "test"
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{name:<{width}}  {value:>8}  {note}".rstrip() for name, value, note in rows]
    head = (
        f"{len(result.y)} {kind} images, ε = {protocol.eps:.4g}, groups of {protocol.group_size}, "
        f"{describe_range(protocol.clip)}, {result.seconds:.1f} s"
    )
    return "\n".join([head, *lines])


def plot_curves(records: list[dict[str, Any]], path: Path) -> Path:
    """Loss, accuracies and ε over the epochs, as a PNG."""
    figure, axes = plain_axes(*CURVES)
    draw_curves(records, axes)
    return _write(figure, path)


def plot_stages(result: Evaluation, path: Path) -> Path:
    """What settled the images, and where the time went, as two stacked bars; a PNG."""
    figure, axes = plain_axes(*STAGES)
    draw_stages(result, axes)
    figure.suptitle(
        f"UCert {_percent(result.uap.certified_accuracy)}, under attack "
        f"{_percent(result.uap.attacked_accuracy)}, ε = {result.protocol.eps:.4g}",
        fontsize=10,
    )
    return _write(figure, path)


def plot_uap(result: Evaluation, spec: DatasetSpec, path: Path) -> Path | None:
    """The strongest perturbation beside images it breaks, as a PNG; None where it breaks none."""
    return _write_or_remove(draw_strongest(result, spec, plain_figure()), path)


def plot_try(
    result: UapResult,
    x: torch.Tensor,
    eps: float,
    clip: Range | None,
    spec: DatasetSpec,
    path: Path,
) -> Path | None:
    """The perturbation beside images it breaks (see :func:`plots.draw_uap`), as a PNG.

    None, and no picture, where no image is broken.
    """
    return _write_or_remove(draw_uap(result, x, eps, clip, spec, plain_figure()), path)


def uap_table(result: UapResult, eps: float, clip: Range | None, spec: DatasetSpec) -> str:
    """Accuracy without and with u and the fooling rate, in percent; per class if it is."""
    parts = [("all", result)]
    if len(result.u) > 1:
        parts += [(name, result.of_class(k)) for k, name in enumerate(spec.class_names)]
    width = max(len(name) for name, _ in parts)
    lines = [f"{'class':<{max(width, 5)}}    images     clean    with u    fooled"]
    for name, part in parts:
        shares = [(part.clean == part.y), (part.moved == part.y)]
        percents = [_percent(_mean(share) if len(share) else None) for share in shares]
        percents.append(_percent(part.fooling_rate))
        cells = "".join(f"  {cell:>8}" for cell in [str(len(part.y)), *percents])
        lines.append(f"{name:<{max(width, 5)}}{cells}")
    kind = "one perturbation a class" if len(result.u) > 1 else "one perturbation"
    head = f"{len(result.y)} test images, ε = {eps:.4g}, {kind}, {describe_range(clip)}"
    return "\n".join([head, *lines])


def _mean(mask: torch.Tensor) -> float:
    return float(mask.float().mean())


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _write_or_remove(figure: Figure | None, path: Path) -> Path | None:
    """Without a figure there is no file, not even an earlier one."""
    if figure is None:
        path.unlink(missing_ok=True)
        return None
    return _write(figure, path)


def _write(figure: Figure, path: Path) -> Path:
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130))
    return path
