"""Robustness properties for other verifiers, and the verdicts of these verifiers.

An export is a folder: ``model.onnx`` takes pixels in [0, 1], ``image_00012.vnnlib`` asks for a
counterexample near test image 12, ``instances.csv`` lists (onnx, vnnlib, timeout) as VNN-COMP
does, and ``export.json`` holds the settings. A verifier's answers belong in ``results.csv``.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from ..bounds.box import Box
from ..bounds.checks import Range, Scalar
from ..bounds.radius import radius_entries, radius_words
from ..data.augmentation import centre_crop
from ..data.types import DatasetSpec, Split
from ..errors import CheckpointError, InputError, expect, require
from ..formats.atomic import write_text
from ..formats.onnx import load_onnx, save_onnx
from ..formats.query_writer import image_query
from ..formats.vnnlib import enclosing_box, property_text
from ..models import Shape
from .record import EvaluationRecord

FORMAT = "citrus-lirpa export 1"
MODEL, INSTANCES, EXPORT, RESULTS = "model.onnx", "instances.csv", "export.json", "results.csv"
#: What writes a property, by version of VNN-LIB.
STANDARDS = {"1.0": property_text, "2.0": image_query}

_CERTIFIED = ("unsat", "verified", "holds")
_ATTACKED = ("sat", "falsified", "violated")
#: The time of a row that failed before its run.
_NEVER_RUN = "-1"
_COLUMNS = {2: (0, 1), 4: (1, 2), 6: (2, 4)}  # row length: places of the property and the result
_ROWS = "image,result or onnx,vnnlib,result,time or category,onnx,vnnlib,prepare_time,result,time"


# -- writing --------------------------------------------------------------------------


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
        name, box = _property_name(images[row]), Box(boxes.lower[row], boxes.upper[row])
        about = f"test image {images[row]} of {spec.name}"
        comment = f"; {about}, all pixels within {radius_words(eps)}\n"
        write_text(folder / name, comment + write_property(box, int(labels[row]), spec.classes))
    record = {
        **head(FORMAT, spec, eps, clip),
        "images": [images[row] for row in kept],
        "labels": labels[kept].tolist(),
        "left_out": [i for i, right in zip(images, correct.tolist(), strict=True) if not right],
        "model_sha256": _sha256(folder / MODEL),
    }
    return finish(folder, map(_property_name, record["images"]), timeout, record)


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
    write_text(folder / EXPORT, json.dumps(record, indent=2) + "\n")
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


def _property_name(image: int) -> str:
    return f"image_{image:05d}.vnnlib"


# -- reading --------------------------------------------------------------------------


def undecided_images(path: Path, *, dataset: str, eps: Scalar, clip: Range | None) -> list[int]:
    """Read which images an evaluation left undecided.

    Args:
        path: The record of ``eval`` (JSON).
        dataset: The data set that it must be of.
        eps: The radius that it must be of.
        clip: The range of pixels that it must be of.

    Returns:
        The numbers of the images whose entry of "verdicts" is "undecided".

    Raises:
        InputError: The file is no such record, is of something else or of held-out images, or
            leaves no image undecided.
    """
    path = Path(path)
    try:
        record = EvaluationRecord.load(path, "give a record of citrus-lirpa eval")
    except CheckpointError as error:
        raise InputError(str(error)) from None
    verdicts = record.verdicts
    if verdicts is None:
        raise InputError(f'{path} holds no "verdicts"; expected a record of citrus-lirpa eval')
    _check_settings(
        path,
        record.to_json(),
        {"data": dataset, **_box(eps, clip)},
    )
    held_out = f"{path} is of held-out training images; `export` writes test images"
    require(not record.held_out, held_out)
    images = [i for i, verdict in enumerate(verdicts) if verdict == "undecided"]
    require(images, f"{path} leaves none of its {len(verdicts)} images undecided")
    return images


def read_verdicts(csv_path: Path, folder: Path) -> dict[int, str]:
    """Read the verdicts of a verifier.

    Args:
        csv_path: Rows as VNN-COMP writes them, of four or six columns, or ``image,result``; a
            line of titles may come first.
        folder: The export, which must hold the property of every row.

    Returns:
        "certified", "attacked" or "undecided" by number of the image.

    Raises:
        InputError: The file cannot be read or is empty, a row is malformed or names what was not
            exported, or two rows are of one image.
    """
    csv_path, verdicts = Path(csv_path), {}
    try:
        with csv_path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{csv_path} cannot be read as CSV: {error}") from error
    for place, (line, row) in enumerate(rows):
        if not any(row) or (place == 0 and "result" in (cell.lower() for cell in row)):
            continue
        where = f"{csv_path}, line {line}"
        image, verdict = _read_row(where, row, Path(folder))
        require(image not in verdicts, f"{where}: image {image} has two rows; keep one")
        verdicts[image] = verdict
    require(verdicts, f"{csv_path} holds no results; expected rows of {_ROWS}")
    return verdicts


def import_verdicts(
    folder: Path, model: nn.Module, spec: DatasetSpec, *, eps: Scalar, clip: Range | None
) -> dict[int, str]:
    """Read the verdicts in an export, once it is known to ask what an evaluation asks.

    Args:
        folder: The export, with the verdicts in results.csv.
        model: The evaluated network, in eval mode.
        spec: The data set of the evaluation.
        eps: Its radius.
        clip: Its range of pixels.

    Returns:
        "certified", "attacked" or "undecided" by number of the test image; images without a row
        are left out.

    Raises:
        InputError: ``folder`` is no export, its model was changed, or its data set, radius,
            clipping or model is not that of the evaluation; or as by ``read_verdicts``.
    """
    folder = Path(folder)
    path, exported = folder / EXPORT, folder / MODEL
    record = _read_json(path)
    require(
        record.get("format") == FORMAT and isinstance(record.get("images"), list),
        f"{path} is no record of citrus-lirpa export ('{FORMAT}')",
    )
    _check_settings(path, record, {"dataset": spec.name, **_box(eps, clip)})
    same = exported.is_file() and _sha256(exported) == record.get("model_sha256")
    require(same, f"{exported} is not the file that was exported; export again")
    same = _same_outputs(model, exported, spec.shape)
    require(same, f"{exported} is not the network to be evaluated; export that one")
    verdicts = read_verdicts(folder / RESULTS, folder)
    for image in verdicts:
        require(image in record["images"], f"{folder / RESULTS}: image {image} is not in {EXPORT}")
    return verdicts


@torch.no_grad()
def _same_outputs(model: nn.Module, path: Path, shape: Shape) -> bool:
    """Return whether the network in ``path`` computes what ``model`` does, up to rounding."""
    x = torch.rand(8, *shape)
    other, other_shape = load_onnx(path)
    device = next((tensor.device for tensor in model.parameters()), x.device)
    if other_shape != shape:
        return False
    here, there = model(x.to(device)).cpu(), other(x)
    if here.shape != there.shape:
        return False
    return bool((here - there).abs().max() <= 1e-5 * (1 + here.abs().max()))


def _read_row(where: str, row: list[str], folder: Path) -> tuple[int, str]:
    require(len(row) in _COLUMNS, f"{where}: {len(row)} columns; expected {_ROWS}")
    at, result_at = _COLUMNS[len(row)]
    place, result, never_run = row[at], row[result_at], _NEVER_RUN in row[at + 1 :]
    if len(row) == 2:
        number = re.fullmatch(r"\d{1,9}", place, re.ASCII)
        require(number, f"{where}: '{place[:80]}' is no image; expected its number")
        name = _property_name(int(place))
    else:
        model, name = _file_name(row[at - 1]), _file_name(place)
        times = [cell for column, cell in enumerate(row) if column > at and column != result_at]
        require(
            model == MODEL and all(_is_time(time) for time in times),
            f"{where}: model '{model[:80]}' and times {', '.join(times)[:80]}; expected "
            f"{MODEL} and seconds, in {_ROWS}",
        )
    match = re.fullmatch(r"image_(\d{5,9})\.vnnlib", name, re.ASCII)
    if not match or not (folder / name).is_file():
        raise InputError(f"{where}: '{name[:80]}' is no property in {folder}; export again")
    require(result, f"{where}: the result is empty; expected sat, unsat, timeout or the like")
    return int(match[1]), "undecided" if never_run else _verdict(result.lower())


def _verdict(result: str) -> str:
    if result in _CERTIFIED or result.startswith("safe"):
        return "certified"
    if result in _ATTACKED or result.startswith("unsafe"):
        return "attacked"
    return "undecided"


def _file_name(cell: str) -> str:
    """The name of a file, which the verifier may have read compressed."""
    return PurePosixPath(cell.replace("\\", "/")).name.removesuffix(".gz")


def _is_time(cell: str) -> bool:
    number = re.fullmatch(r"\d*\.?\d+(e[+-]?\d+)?", cell, re.ASCII | re.IGNORECASE)
    return bool(number) or cell == _NEVER_RUN


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    message = f"{path} holds a {type(record).__name__}; expected a JSON object"
    require(isinstance(record, dict), message)
    return record


def _box(eps: Scalar, clip: Range | None) -> dict[str, Any]:
    """Return what a record says of the perturbations."""
    return {"eps_map": None, **radius_entries(eps), "clip": clip}


def _check_settings(path: Path, record: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a record whose entries differ from those ``wanted``; a clip may be a pair."""
    for key, value in wanted.items():
        value = list(value) if isinstance(value, tuple) else value
        known = key in record or key == "eps_map"  # which records of one ε do not have
        require(
            known and record.get(key) == value,
            f"{path} has {key} {json.dumps(record.get(key))}, but here it is "
            f"{json.dumps(value)}; use the same data set, --eps or --eps-map, and --clip",
        )
