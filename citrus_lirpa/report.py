"""Tables and pictures of training runs and evaluations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .files import write_atomically
from .data import DatasetSpec
from .errors import DependencyError
from .verify import Evaluation

_SHOWN = 6  # images in the picture of a perturbation


def epoch_line(record: dict[str, Any]) -> str:
    """One epoch of training in one line."""
    return (
        f"epoch {record['epoch']}: ε {record['eps']:.4f}, loss {record['loss']:.3f}, training "
        f"accuracy {_percent(record['accuracy'])}, boxes certified "
        f"{_percent(record['certified'])}, {record['seconds']:.1f} s"
    )


def evaluation_table(result: Evaluation) -> str:
    """Accuracies in percent of all images, with the seconds each stage took."""
    certificates, uap = result.certificates, result.uap
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
    rows.append(
        (
            "UCert (certified average UAP accuracy)",
            _percent(uap.certified_accuracy),
            "lower bound, proved",
        )
    )
    rows.append(("UAP accuracy under attack", _percent(uap.attacked_accuracy), "upper bound"))
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{name:<{width}}  {value:>8}  {note}".rstrip() for name, value, note in rows]
    head = (
        f"{len(result.y)} test images, ε = {result.eps:.4g}, groups of {result.group_size}, "
        f"{'clipped to [0, 1]' if result.clip else 'not clipped'}, {result.seconds:.1f} s"
    )
    return "\n".join([head, *lines])


def plot_curves(records: list[dict[str, Any]], path: Path) -> Path:
    """Loss, accuracies and ε over the epochs, as a PNG."""
    epochs = [r["epoch"] for r in records]
    figure, (left, right) = _subplots(1, 2, (10, 3.8))
    left.plot(epochs, [r["loss"] for r in records], color="C3", label="loss")
    left.set(xlabel="epoch", ylabel="loss", title="Training loss and ε")
    radius = left.twinx()
    radius.plot(epochs, [r["eps"] for r in records], color="0.5", linestyle="--", label="ε")
    radius.set(ylabel="ε (pixels in [0, 1])", ylim=(0, None))
    lines = left.get_lines() + radius.get_lines()
    left.legend(lines, [line.get_label() for line in lines], loc="center right")
    for key, label, colour in (
        ("accuracy", "clean accuracy", "C0"),
        ("certified", "boxes certified", "C2"),
    ):
        points = [(r["epoch"], 100 * r[key]) for r in records if r[key] is not None]
        if points:
            right.plot(*zip(*points, strict=True), color=colour, label=label)
    right.set(xlabel="epoch", ylabel="%", ylim=(0, 100), title="Training batches")
    right.legend(loc="lower right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return _write(figure, path)


def plot_uap(result: Evaluation, spec: DatasetSpec, path: Path) -> Path | None:
    """The strongest perturbation beside images it breaks; None where it breaks none."""
    before, after = result.predictions
    hit = (result.certificates.correct & (after != result.y)).nonzero().flatten()[:_SHOWN].tolist()
    if not hit:
        path.unlink(missing_ok=True)
        return None
    figure, axes = _subplots(2, len(hit) + 1, (1.6 * (len(hit) + 1), 3.9))
    u = result.strongest
    scaled = u / (2 * result.eps) + 0.5
    _show(axes[0][0], scaled, f"u, |u| ≤ {result.eps:.4g}")
    axes[1][0].axis("off")
    for column, i in enumerate(hit, start=1):
        _show(axes[0][column], result.x[i], spec.class_names[before[i]])
        _show(axes[1][column], result.x[i] + u, f"with u: {spec.class_names[after[i]]}")
    figure.suptitle(
        f"Strongest universal perturbation found: breaks {result.fooling_rate:.1%} "
        f"of {int(result.certificates.correct.sum())} correct images",
        fontsize=10,
    )
    return _write(figure, path)


def tensorboard_logger(folder: Path) -> Callable[[dict[str, Any]], None]:
    """A function that writes one epoch's record as TensorBoard events below ``folder``."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DependencyError(
            f"TensorBoard is not installed ({error}): pip install tensorboard"
        ) from error
    writer = SummaryWriter(str(folder / "tensorboard"))

    def log(record: dict[str, Any]) -> None:
        for key, value in record.items():
            if key not in ("epoch", "step") and value is not None:
                writer.add_scalar(key, value, record["epoch"])
        writer.flush()

    return log


def _mean(mask: torch.Tensor) -> float:
    return float(mask.float().mean())


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _subplots(rows: int, columns: int, size: tuple[float, float]):
    from matplotlib.figure import Figure  # no pyplot: no global state, no window system

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns)


def _show(axes, image: torch.Tensor, title: str) -> None:
    pixels = image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    axes.imshow(pixels.squeeze(), cmap="gray" if pixels.shape[2] == 1 else None, vmin=0, vmax=1)
    axes.set_title(title, fontsize=8)
    axes.axis("off")


def _write(figure, path: Path) -> Path:
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130))
    return path
