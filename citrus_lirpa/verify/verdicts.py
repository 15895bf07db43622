"""The verdicts of other verifiers on what was exported, and what an evaluation left to them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import nn

from ..bounds.checks import Range, Scalar
from ..bounds.radius import radius_entries
from ..data.types import DatasetSpec
from ..errors import CheckpointError, InputError, require
from ..formats.onnx import load_onnx
from ..models import Shape
from .record import EvaluationRecord
from .vnnlib import EXPORT, FORMAT, MODEL, RESULTS, file_hash, property_name

_CERTIFIED = ("unsat", "verified", "holds")
_ATTACKED = ("sat", "falsified", "violated")
#: The time of a row that failed before its run.
_NEVER_RUN = "-1"
_COLUMNS = {2: (0, 1), 4: (1, 2), 6: (2, 4)}  # row length: places of the property and the result
_ROWS = "image,result or onnx,vnnlib,result,time or category,onnx,vnnlib,prepare_time,result,time"


def undecided_images(path: Path, *, dataset: str, eps: Scalar, clip: Range | None) -> list[int]:
    """Return the numbers of the images that an evaluation of these settings left undecided.

    Raises:
        InputError: The file is no record of ``eval``, is of something else or of held-out images,
            or leaves no image undecided.
    """
    path = Path(path)
    try:
        record = EvaluationRecord.load(path, "give a record of citrus-lirpa eval")
    except CheckpointError as error:
        raise InputError(str(error)) from None
    verdicts = record.verdicts
    if verdicts is None:
        raise InputError(f'{path} holds no "verdicts"; expected a record of citrus-lirpa eval')
    _check_settings(path, record.to_json(), {"data": dataset, **_box(eps, clip)})
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

    ``folder`` holds them in results.csv; the model is in eval mode.

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
        f"{path} is not a record of citrus-lirpa export ('{FORMAT}')",
    )
    _check_settings(path, record, {"dataset": spec.name, **_box(eps, clip)})
    same = exported.is_file() and file_hash(exported) == record.get("model_sha256")
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
        require(number, f"{where}: '{place[:80]}' is not an image; expected its number")
        name = property_name(int(place))
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
        raise InputError(f"{where}: '{name[:80]}' is not a property of {folder}; export again")
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
