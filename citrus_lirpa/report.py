"""Tables and pictures of training runs and evaluations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .attacks import UapResult
from .boxes import Range
from .data import DatasetSpec
from .errors import DependencyError
from .files import write_atomically
from .verify import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 6  # images in the picture of a perturbation
_CLASSES = 10  # classes in that of one perturbation a class


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
        f"{_range(protocol.clip)}, {result.seconds:.1f} s"
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


def plot_stages(result: Evaluation, path: Path) -> Path:
    """What settled the images, and where the time went, as two stacked bars."""
    shares = result.shares()
    seconds = {**result.certificates.seconds, **result.uap.seconds}
    greys = {"undecided": "0.8", "broken": "0.55", "wrong": "0.3"}
    proving = [name for name in shares if name not in greys]
    colours = {name: f"C{i % 10}" for i, name in enumerate(proving)} | greys
    colours |= {"attack": "0.55", "group attack": "0.7"}
    figure, axes = _subplots(2, 1, (9, 3.6))
    for axis, values, unit in (
        (axes[0], {k: 100 * v / len(result.y) for k, v in shares.items()}, "% of images"),
        (axes[1], seconds, "seconds"),
    ):
        left, total = 0.0, sum(values.values())
        for name, value in values.items():
            if value:
                axis.barh(0, value, left=left, color=colours[name], label=f"{name} {value:.3g}")
                left += value
        axis.set(xlabel=unit, yticks=[], xlim=(0, max(total, 1e-9)))
        axis.legend(ncol=5, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, frameon=False)
    figure.suptitle(
        f"UCert {_percent(result.uap.certified_accuracy)}, under attack "
        f"{_percent(result.uap.attacked_accuracy)}, ε = {result.protocol.eps:.4g}",
        fontsize=10,
    )
    return _write(figure, path)


def plot_uap(result: Evaluation, spec: DatasetSpec, path: Path) -> Path | None:
    """The strongest perturbation beside images it breaks; None where it breaks none."""
    before, after = result.predictions
    hit = (result.certificates.correct & (after != result.y)).nonzero().flatten()[:_SHOWN].tolist()
    if not hit:
        path.unlink(missing_ok=True)
        return None
    shown = [(result.x[i], spec.class_names[before[i]], spec.class_names[after[i]]) for i in hit]
    title = (
        f"Strongest universal perturbation found: breaks {result.fooling_rate:.1%} "
        f"of {int(result.certificates.correct.sum())} correct images"
    )
    return _write(_beside(result.strongest, result.protocol.eps, shown, title), path)


def plot_try(
    result: UapResult,
    x: torch.Tensor,
    eps: float,
    clip: Range | None,
    spec: DatasetSpec,
    path: Path,
) -> Path | None:
    """The perturbation beside images it breaks, or for each class its own above one of them.

    x: the N images of ``result``. Of many classes those most fooled are shown. None, and no
    picture, where no image is broken.
    """
    names, broken = spec.class_names, result.broken.nonzero().flatten()
    if len(broken) == 0:
        path.unlink(missing_ok=True)
        return None
    start = f"ε = {eps:.4g}, {_range(clip)}: "
    end = f"{result.fooling_rate:.1%} of {int(result.correct.sum())} correct test images"
    if len(result.u) == 1:
        first: dict[int, int] = {}  # an image of each class before a second one of any
        for i in broken.tolist():
            first.setdefault(int(result.y[i]), i)
        rest = [i for i in broken.tolist() if i not in first.values()]
        hit = (list(first.values()) + rest)[:_SHOWN]
        shown = [(x[i], names[result.clean[i]], names[result.moved[i]]) for i in hit]
        title = f"Universal perturbation, {start}breaks {end}"
        return _write(_beside(result.u[0].cpu(), eps, shown, title), path)
    parts = {k: result.of_class(k) for k in range(len(names))}
    strongest = sorted(parts, key=lambda k: parts[k].fooling_rate, reverse=True)[:_CLASSES]
    figure, axes = _subplots(3, len(strongest), (1.45 * len(strongest) + 0.2, 5))
    for column, k in enumerate(sorted(strongest)):
        u = result.u[k].cpu()
        _show(axes[0][column], _scaled(u, eps), f"u: breaks {parts[k].fooling_rate:.0%}")
        hit = (result.broken & (result.y == k)).nonzero().flatten()[:1].tolist()
        for i in hit:
            _show(axes[1][column], x[i], names[k])
            _show(axes[2][column], x[i] + u, f"with u: {names[result.moved[i]]}")
        if not hit:
            axes[1][column].axis("off")
            axes[2][column].axis("off")
    figure.suptitle(
        f"A universal perturbation for each class, {start}together they break {end}", fontsize=10
    )
    return _write(figure, path)


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
    head = f"{len(result.y)} test images, ε = {eps:.4g}, {kind}, {_range(clip)}"
    return "\n".join([head, *lines])


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


def _range(clip: Range | None) -> str:
    return "clipped to [0, 1]" if clip else "not clipped"


def _beside(
    u: torch.Tensor, eps: float, shown: list[tuple[torch.Tensor, str, str]], title: str
) -> Figure:
    """u (C, H, W) beside images, without and with it: (image, class, class with u) each."""
    figure, axes = _subplots(2, len(shown) + 1, (max(1.6 * (len(shown) + 1), 6), 3.9))
    _show(axes[0][0], _scaled(u, eps), f"u, |u| ≤ {eps:.4g}")
    axes[1][0].axis("off")
    for column, (image, before, after) in enumerate(shown, start=1):
        _show(axes[0][column], image, before)
        _show(axes[1][column], image + u, f"with u: {after}")
    figure.suptitle(title, fontsize=10)
    return figure


def _scaled(u: torch.Tensor, eps: float) -> torch.Tensor:
    """u as pixels: -ε is black, 0 grey, +ε white."""
    return u / (2 * eps) + 0.5 if eps else torch.full_like(u, 0.5)


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
