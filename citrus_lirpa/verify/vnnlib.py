"""Robustness properties for other verifiers.

An export is a folder: ``model.onnx`` takes pixels in [0, 1], ``image_00012.vnnlib`` asks for a
counterexample near test image 12, ``instances.csv`` lists (onnx, vnnlib, timeout) as VNN-COMP
does, and ``export.json`` holds the settings. A verifier's answers belong in ``results.csv``
(:mod:`.verdicts`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..bounds.box import Box
from ..bounds.checks import Range, Scalar
from ..bounds.radius import radius_entries, radius_words
from ..data.augmentation import centre_crop
from ..data.types import DatasetSpec, Split
from ..errors import expect, require
from ..formats.atomic import write_json, write_text
from ..formats.onnx import save_onnx
from ..formats.query_writer import image_query
from ..formats.vnnlib import enclosing_box, property_text

FORMAT = "citrus-lirpa export 1"
MODEL, INSTANCES, EXPORT, RESULTS = "model.onnx", "instances.csv", "export.json", "results.csv"
#: What writes a property, by version of VNN-LIB.
STANDARDS = {"1.0": property_text, "2.0": image_query}


def export(
    model: nn.Module,
    data: Split,
    spec: DatasetSpec,
    folder: Path,
    *,
    images: Sequence[int],
    eps: Scalar,
    clip: Range | None = None,
    timeout: float = 100.0,
    standard: str = "1.0",
) -> dict[str, Any]:
    """Write a network and one property for each image that it classifies correctly.

    Args:
        model: A network in eval mode, on the CPU, from pixels (N, *spec.shape) to logits.
        data: The test set.
        spec: What the test set is.
        folder: Where to write; it must be empty or not exist.
        images: Numbers of images in ``data``.
        eps: The radius in pixels, a number or a map of one image.
        clip: The range of pixels, None for no limits.
        timeout: What verifiers get for each property, in seconds.
        standard: The version of VNN-LIB, 1.0 or 2.0.

    Returns:
        The content of export.json; ``left_out`` are the misclassified images.

    Raises:
        InputError: ``folder`` is in use, or an image or another value is not usable.
        ModelError: ``save_onnx`` refuses the network.
    """
    folder, images = Path(folder), list(images)
    expect(standard in STANDARDS, "standard", standard, " or ".join(STANDARDS))
    write_property = STANDARDS[standard]
    check_export(folder, images, len(data), timeout)
    x, labels, correct = judged(model, data, spec, images)
    boxes = enclosing_box(x, eps, clip)
    save_onnx(model, spec.shape, folder / MODEL)
    kept = correct.nonzero().flatten().tolist()
    for row in kept:
        name, box = property_name(images[row]), Box(boxes.lower[row], boxes.upper[row])
        about = f"test image {images[row]} of {spec.name}"
        comment = f"; {about}, all pixels within {radius_words(eps)}\n"
        write_text(folder / name, comment + write_property(box, int(labels[row]), spec.classes))
    record = {
        **head(FORMAT, spec, eps, clip),
        "images": [images[row] for row in kept],
        "labels": labels[kept].tolist(),
        "left_out": [i for i, right in zip(images, correct.tolist(), strict=True) if not right],
        "model_sha256": file_hash(folder / MODEL),
    }
    return finish(folder, map(property_name, record["images"]), timeout, record)


def head(kind: str, spec: DatasetSpec, eps: Scalar, clip: Range | None) -> dict[str, Any]:
    """Return the entries that every record of an export begins with."""
    box = {**radius_entries(eps), "clip": list(clip) if clip else None}
    return {"format": kind, "dataset": spec.name, **box}


def finish(
    folder: Path, names: Iterable[str], timeout: float, record: dict[str, Any]
) -> dict[str, Any]:
    """Write instances.csv, a row for each file that is named, and the record; return the record."""
    rows = (f"{MODEL},{name},{timeout:g}\n" for name in names)
    write_text(folder / INSTANCES, "".join(rows))
    write_json(folder / EXPORT, record)
    return record


def check_export(folder: Path, images: list[int], count: int, timeout: float) -> None:
    """Raise InputError for a folder in use, unusable images of ``count``, or a bad time limit."""
    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    require(free, f"{folder} exists and is not empty; choose another --out")
    expect(0 < timeout < float("inf"), "timeout", timeout, "a positive number of seconds")
    wrong = [i for i in images if not 0 <= i < count]
    problem = f"{wrong[0]} is not one of them" if wrong else "none is given, or one twice"
    require(
        images and not wrong and len(set(images)) == len(images),
        f"images are numbers from 0 to {count - 1}: {problem}",
    )


@torch.no_grad()
def judged(
    model: nn.Module, data: Split, spec: DatasetSpec, images: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return images (N, *spec.shape), their labels, and whether the network is right (N,)."""
    x, labels = centre_crop(data.pixels(images), spec), data.labels[images]
    return x, labels, torch.cat([model(part).argmax(1) for part in x.split(256)]) == labels


def property_name(image: int) -> str:
    """Return the name of the file about an image."""
    return f"image_{image:05d}.vnnlib"


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
