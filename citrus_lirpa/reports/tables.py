"""Tables of training runs and evaluations, and the words that all reports share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..bounds.arithmetic import arithmetic_words
from ..bounds.checks import Scalar
from ..bounds.norms import norm_words
from ..bounds.radius import largest, map_hash

if TYPE_CHECKING:
    from ..attacks import UapResult
    from ..bounds.checks import Range
    from ..data.types import DatasetSpec
    from ..verify import Certificates, Evaluation, Smoothed, Smoothing
    from ..verify.record import EvaluationRecord


# -- words ----------------------------------------------------------------------------


def percent(share: float | None, unit: str = "") -> str:
    """Write a share in percent, with two decimals; "-" for None."""
    return "-" if share is None else f"{100 * share:.2f}{unit}"


def radius(eps: Scalar, eps_map: str | None = None, norm: float | None = None) -> str:
    """Write ε as people do: 0.1, or 8/255 where it is that; of a map its largest value.

    ``eps_map`` is the hash of the map whose largest value ``eps`` is; norm 2 is named.
    """
    hashed = eps_map or map_hash(eps)
    if hashed:
        return f"{radius(largest(eps))} at most (map {hashed[:8]})"
    short, levels = f"{eps:.4g}", round(255 * float(eps))
    if float(short) != eps and math.isclose(levels / 255, eps, rel_tol=1e-6):
        short = f"{levels}/255"
    return short + norm_words(norm)


def exact_radius(eps: float) -> str:
    """Write ε as ``radius`` does where that loses nothing, else with all its digits."""
    short = radius(eps)
    return short if "/" in short or float(short) == eps else repr(eps)


def clipping(clip: Range | None) -> str:
    """Say whether perturbed images are cut, and to which range."""
    if clip is None:
        return "not clipped"
    if any(isinstance(end, Tensor) for end in clip):
        return "clipped channel by channel"
    return "clipped to [{:g}, {:g}]".format(*clip)


def counted(count: int, one: str, several: str = "") -> str:
    """Say how many there are, as "1 group" or "2 queries".

    Args:
        count: How many.
        one: The word for one.
        several: The word for several; by default, the other one with an s.
    """
    return f"{count} {one if count == 1 else several or f'{one}s'}"


def count_images(count: int, kind: str = "") -> str:
    """Say how many images there are, of a kind such as "test"."""
    return counted(count, " ".join([*kind.split(), "image"]))


# -- tables ---------------------------------------------------------------------------


def table(rows: Sequence[Sequence[str]], columns: Sequence[str], form: str = "text") -> str:
    """Lay out rows of cells as a table.

    Args:
        rows: The cells of each row. In Markdown and LaTeX the first row is the heading.
        columns: "<" or ">" for each column, the side to which its cells are moved, and its
            least width where it has one, such as ">8".
        form: "text" (aligned), "markdown", or "latex" (a tabular with the lines of booktabs).

    Returns:
        The lines, without a newline at the end.
    """
    if form == "latex":
        title, *rest = (" & ".join(c.translate(_LATEX) for c in row) + r" \\" for row in rows)
        sides = "".join("l" if column[0] == "<" else "r" for column in columns)
        begin = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", title, r"\midrule"]
        return "\n".join([*begin, *rest, r"\bottomrule", r"\end{tabular}"])
    if form == "markdown":
        title, *rest = (
            "| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in rows
        )
        sides = "".join("---|" if column[0] == "<" else "--:|" for column in columns)
        return "\n".join([title, f"|{sides}", *rest])
    widths = [
        max(int(column[1:] or 0), *map(len, cells))
        for column, cells in zip(columns, zip(*rows, strict=True), strict=True)
    ]
    forms = [f"{column[0]}{width}" for column, width in zip(columns, widths, strict=True)]
    return "\n".join("  ".join(map(format, row, forms)).rstrip() for row in rows)


#: What stands for characters that mean something to LaTeX.
_LATEX = str.maketrans(
    {
        **{c: rf"\{c}" for c in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
    }
)


def epoch_line(record: dict[str, Any]) -> str:
    """Describe an epoch of training, a line of metrics.jsonl, in one line.

    Without the accuracies where there is none, as of a denoiser.
    """
    parts = [f"epoch {record['epoch']}: ε {record['eps']:.4f}", f"loss {record['loss']:.3f}"]
    if record["accuracy"] is not None:
        parts.append(f"training accuracy {percent(record['accuracy'], ' %')}")
        parts.append(f"boxes certified {percent(record['certified'], ' %')}")
    if record.get("kappa") is not None:  # runs of earlier versions have none
        parts.append(f"κ ≥ {record['kappa']}")
    return ", ".join([*parts, f"{record['seconds']:.1f} s"])


def shortcomings(found: Certificates | EvaluationRecord, stage: str) -> list[str]:
    """Say why a stage proved less than it could: images that lacked memory or time."""
    counts = (
        (found.not_fitting, "did not fit into memory"),
        (found.late or {}, "left open for lack of time"),
    )
    return [f"{count_images(n[stage])} {why}" for n, why in counts if n.get(stage)]


def evaluation_table(result: Evaluation) -> str:
    """Tabulate the accuracies of an evaluation, in percent of all images, and its times."""
    certificates, uap, protocol = result.certificates, result.uap, result.protocol
    rows = [("standard accuracy", percent(_mean(certificates.correct), " %"), "")]
    for method in certificates.methods:
        note = f"{certificates.seconds[method]:.1f} s"
        if method in certificates.unsupported:
            note = f"not possible: {certificates.unsupported[method]}"
        note = ", ".join([note, *shortcomings(certificates, method)])
        if method == "bab" and certificates.claimed:
            note += f", {count_images(certificates.claimed)} more by HiGHS's word, not counted"
        share = percent(_mean(certificates.certified_by(method)), " %")
        rows.append((f"certified by {method}", share, note))
    proving = sum(uap.seconds.values())
    gap = int((uap.upper - uap.lower).sum())
    rows += [
        (
            "UCert (certified average UAP accuracy)",
            percent(uap.certified_accuracy, " %"),
            f"lower bound, proved; groups took {proving:.1f} s",
        ),
        (
            "UAP accuracy under attack",
            percent(uap.attacked_accuracy, " %"),
            f"upper bound; {count_images(gap)} between the two",
        ),
    ]
    if result.proofs is not None:
        proofs = result.proofs
        written = f"{count_images(proofs.images)}, {counted(proofs.groups, 'group')}"
        rows.append(("with a proof", "", written))
    head = (
        f"{count_images(len(result.y), 'held-out' if protocol.held_out else 'test')}, "
        f"ε = {radius(protocol.eps, norm=protocol.norm)}, groups of {protocol.group_size}, "
        f"{clipping(protocol.clip)}{arithmetic_words(protocol.arithmetic)}, {result.seconds:.1f} s"
    )
    return f"{head}\n{table(rows, ('<', '>8', '<'))}"


def uap_table(
    result: UapResult, eps: Scalar, clip: Range | None, spec: DatasetSpec, norm: float = math.inf
) -> str:
    """Tabulate what universal perturbations do, for each class where each has its own."""
    class_wise = len(result.u) > 1
    parts = [("all", result)]
    if class_wise:
        parts += [(name, result.of_class(k)) for k, name in enumerate(spec.class_names)]
    aim = [] if result.target is None else [f"as {spec.class_names[result.target]}"]
    rows = [("class", "images", "clean", "with u", "fooled", *aim)]
    for name, part in parts:
        clean, moved = (
            percent(_mean(predicted == part.y) if len(part.y) else None, " %")
            for predicted in (part.clean, part.moved)
        )
        taken = [percent(part.target_rate, " %")] if aim else []
        fooled = percent(part.fooling_rate, " %")
        rows.append((name, str(len(part.y)), clean, moved, fooled, *taken))
    kind = "one perturbation a class" if class_wise else "one perturbation"
    size = radius(eps, norm=norm)
    head = f"{count_images(len(result.y), 'test')}, ε = {size}, {kind}, {clipping(clip)}"
    return f"{head}\n{table(rows, ('<', *(len(rows[0]) - 1) * ('>8',)))}"


def smoothed_table(
    found: Smoothed, smoothing: Smoothing, radii: Sequence[float], eps: float, spec: DatasetSpec
) -> str:
    """Tabulate the certified accuracy of a smoothed network at ℓ2 radii, and at last at ε."""
    pixels = math.prod(spec.shape)
    holds = f"of the smoothed network, each image with probability {1 - smoothing.alpha:g}"
    rows = [(f"within {r:g}", percent(found.accuracy(r), " %"), holds) for r in radii]
    implied = f"{holds}: l2 radius {eps * math.sqrt(pixels):.3g}, safe from any |u| of at most ε"
    rows.append((f"ε = {radius(eps)}", percent(found.covered(eps, pixels), " %"), implied))
    head = f"{count_images(len(found.y))}, σ = {smoothing.sigma:g}, n = {smoothing.n}"
    return f"{head}; certified accuracy\n{table(rows, ('<', '>8', '<'))}"


def _mean(mask: Tensor) -> float:
    return float(mask.float().mean())
