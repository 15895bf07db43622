"""The universal robustness of groups of images, as VNN-LIB 2.0 queries in a folder.

``model.onnx`` takes pixels in [0, 1]; ``group_00003_at_least_4.vnnlib`` asks whether a
perturbation leaves fewer than 4 of the images of group 3 right; ``instances.csv`` lists
(onnx, vnnlib, timeout), and ``export.json`` holds the settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..bounds.box import Box
from ..bounds.checks import Range, Scalar, check_count
from ..bounds.radius import radius_words
from ..data.types import DatasetSpec, Split
from ..errors import expect
from ..formats.atomic import write_text
from ..formats.onnx import save_onnx
from ..formats.query_writer import uap_query
from ..formats.vnnlib import enclosing_box
from .vnnlib import MODEL, check_export, finish, head, judged

FORMAT = "citrus-lirpa uap export 1"


def export_uap(
    model: nn.Module,
    data: Split,
    spec: DatasetSpec,
    folder: Path,
    *,
    images: Sequence[int],
    group_size: int,
    eps: Scalar,
    clip: Range | None = None,
    at_least: int | None = None,
    timeout: float = 100.0,
) -> dict[str, Any]:
    """Write a network, and queries about each group of images that it classifies correctly.

    Misclassified images are left out: a group may have fewer images than ``group_size``.

    Args:
        model: A network in eval mode, on the CPU, from pixels (N, *spec.shape) to logits.
        data: The test set.
        spec: What the test set is.
        folder: Where to write; it must be empty or not exist.
        images: Numbers of images in ``data``; consecutive ones share a perturbation.
        group_size: How many.
        eps: The radius in pixels, a number or a map of one image.
        clip: The range that no perturbed pixel leaves; None for no limits.
        at_least: m of the only query of a group, for groups of at least m images; None for all m.
        timeout: What solvers get for each query, in seconds.

    Returns:
        The content of export.json: for each group its images, and for each query its group and m.

    Raises:
        InputError: ``folder`` is in use, or a value is not usable.
        ModelError: ``save_onnx`` refuses the network.
    """
    folder, images = Path(folder), list(images)
    check_export(folder, images, len(data), timeout)
    check_count(group_size, "group_size")
    usable = at_least is None or 1 <= at_least <= group_size
    expect(usable, "at_least", at_least, f"1 to {group_size}, the size of groups")
    x, labels, correct = judged(model, data, spec, images)
    save_onnx(model, spec.shape, folder / MODEL)
    groups: list[list[int]] = []
    queries: list[dict[str, Any]] = []
    for number, rows in enumerate(torch.arange(len(x)).split(group_size)):
        rows = rows[correct[rows]]
        group = [images[row] for row in rows.tolist()]
        groups.append(group)
        comment = f"; test images {group} of {spec.name}, one |u| <= {radius_words(eps)}\n"
        wanted = range(1, len(rows) + 1) if at_least is None else [at_least]
        for m, text in _queries(x[rows], labels[rows], spec.classes, eps, clip, wanted):
            name = f"group_{number:05d}_at_least_{m}.vnnlib"
            write_text(folder / name, comment + text)
            queries.append({"query": name, "group": number, "at_least": m})
    record = {**head(FORMAT, spec, eps, clip), "groups": groups, "queries": queries}
    return finish(folder, (query["query"] for query in queries), timeout, record)


def _queries(
    x: Tensor, labels: Tensor, classes: int, eps: Scalar, clip: Range | None, wanted: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Yield (m, query) of a group for each m wanted that the group has images for."""
    if len(x):
        around = enclosing_box(x[:1], eps, None)
        box = Box(around.lower[0], around.upper[0])
        for m in wanted:
            if m <= len(x):
                yield m, uap_query(x, box, labels.tolist(), classes, least=m, clip=clip)
