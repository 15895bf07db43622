"""What a page says of one run: words and numbers as they are printed, in the page's order."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, fields
from typing import Any

from ...bounds.arithmetic import arithmetic_words
from ...training.checkpoint import CONFIG_FILE
from ...verify import EvaluationRecord, Protocol
from ...verify.record import GroupFigures
from .. import compare
from ..tables import clipping, count_images, percent, radius, shortcomings
from . import charts, perturbations
from .gather import Material, network_arguments, radius_argument
from .images import Album

#: Options of ``eval`` that the record holds as they were given.
_OPTIONS = tuple(
    field.name
    for field in fields(Protocol)
    if field.name not in ("eps", "norm", "limit", "clip", "held_out")
)

#: Verdicts in ``shares`` that are no stage of a proof.
_UNPROVED = {"undecided": "undecided", "broken": "broken by an attack", "wrong": "wrong without u"}
#: Colours of the stages of a proof, as many as there are CSS classes p0, p1, ...
_TINTS = 7


@dataclass(frozen=True)
class Part:
    """A part of the bar of all images."""

    label: str
    kind: str
    count: int
    percent: float


def view(material: Material, number: int, album: Album, *, groups: int) -> dict[str, Any]:
    """Make the template's values of a run by its number, with at most ``groups`` worst groups."""
    record = material.record
    return {
        "id": f"run-{number}",
        "number": number,
        "name": material.name,
        "folder": str(material.folder),
        "title": _title(material),
        "chips": _chips(material),
        "missing": material.missing,
        "result": None if record is None else _result(record),
        "stages": [] if record is None else _stages(record),
        "groups": _groups(record.groups, record.group_size) if record and record.groups else None,
        "curves": charts.curves(material.epochs, f"run-{number}") if material.epochs else [],
        "training": _training(material),
        "uap": perturbations.universal(material, album),
        "worst": perturbations.worst_groups(material, album, groups),
        "config": _config(material),
        "made_with": _made_with(record),
        "commands": _commands(material),
    }


def _count(number: int) -> str:
    return f"{number:,}"


def seconds(time: float | None) -> str:
    """Write a time in its unit."""
    if time is None:
        return "-"
    if time >= 3600:
        return f"{time / 3600:.1f} h"
    if time >= 120:
        return f"{time / 60:.1f} min"
    return f"{time:.1f} s"


def _title(material: Material) -> str:
    method = "Network" if material.run is None else material.run.method
    if material.config is not None and material.run is None:
        method = compare.training_method(material.folder)[0]
    if method == "-":
        method = "Network"
    return f"{method} on {material.data or 'unknown data'}"


def _chips(material: Material) -> list[str]:
    chips = []
    if material.config is not None:
        chips.append(str(material.config.get("model", {}).get("name", "")))
    record = material.record
    if record is not None:
        chips += [
            f"ε = {radius(record.eps, record.eps_map, record.norm)}",
            count_images(record.images, "held-out" if record.held_out else "test"),
            f"groups of {record.group_size}",
            clipping(record.clip) + arithmetic_words(record.arithmetic),
        ]
    elif material.config is not None:
        eps = material.config.get("train", {}).get("eps")
        chips += [f"ε = {radius(eps)}"] if isinstance(eps, (int, float)) else []
    return [chip for chip in chips if chip]


def _result(record: EvaluationRecord) -> dict[str, Any]:
    uap, images = record.uap_accuracy, record.images
    undecided = record.shares.get("undecided", 0)
    return {
        "certified": percent(uap.certified),
        "attacked": percent(uap.attacked),
        "standard": percent(record.standard_accuracy),
        "gap": percent(uap.gap),
        "gap_images": _count(undecided),
        "settled": undecided == 0,
        "images": _count(images),
        "group_size": record.group_size,
        "eps": radius(record.eps, record.eps_map, record.norm),
        "time": seconds(record.seconds.get("total")),
        "parts": _parts(record.shares, images),
        "rows": [
            (name, percent(share), "" if share is None else _count(round(share * images)), *rest)
            for name, share, *rest in _accuracies(record)
        ],
    }


def _parts(shares: dict[str, int], images: int) -> list[Part]:
    """The parts of the bar that are not empty: stages that proved, then the rest."""
    proving = [name for name in shares if name not in _UNPROVED]
    named = [(name, name, f"p{min(i, _TINTS - 1)}") for i, name in enumerate(proving)]
    named += [(name, label, name) for name, label in _UNPROVED.items()]
    return [
        Part(label, kind, shares[name], 100 * shares[name] / images)
        for name, label, kind in named
        if shares.get(name)
    ]


def _accuracies(record: EvaluationRecord) -> list[tuple[str, float | None, str, str]]:
    """Rows of the table of results: name, share, what it is, and its CSS class."""
    uap, alone = record.uap_accuracy, record.certified_accuracy
    single = record.accuracy_under_single_attacks
    *_, last = alone
    return [
        ("Standard accuracy", record.standard_accuracy, "without a perturbation", ""),
        ("UCert", uap.certified, "lower bound on the UAP accuracy of groups: proved", "lower"),
        ("UAP accuracy under attack", uap.attacked, "upper bound: attacks on groups", "upper"),
        ("Gap", uap.gap, "between the two bounds: neither proved nor broken", ""),
        (f"Certified alone, up to {last}", alone[last], "proved for each image by itself", ""),
        ("Accuracy under single attacks", single, "each image attacked by itself (PGD)", ""),
    ]


def _stages(record: EvaluationRecord) -> list[dict[str, Any]]:
    """What settled how many images in what time, in the order of the evaluation."""
    shares, images = record.shares, record.images
    times = {name: time for name, time in record.seconds.items() if name != "total"}
    longest = max(times.values(), default=0) or 1
    rows, proved = [], 0
    for name, time in times.items():
        settled = shares.get(name)
        proved += settled or 0
        rows.append(
            {
                "name": name,
                "proves": settled is not None,
                "settled": "" if settled is None else _count(settled),
                "proved": "" if settled is None else percent(proved / images),
                "seconds": f"{time:,.1f}",
                "bar": round(100 * time / longest, 1),
                "note": _note(record, name),
            }
        )
    if rows and shares.get("broken"):
        broken = {"name": "broken", "proves": False, "settled": _count(shares["broken"])}
        rows.append({**broken, "proved": "", "seconds": "", "bar": 0, "note": None})
    return rows


def _note(record: EvaluationRecord, stage: str) -> str | None:
    """Why a stage proves less than it could."""
    if (reason := record.unsupported.get(stage)) is not None:
        return f"not possible: {reason}"
    return ", ".join(shortcomings(record, stage)) or None


def _groups(groups: GroupFigures, size: int) -> dict[str, Any]:
    """How many groups there are with 0, 1, 2, ... images proved safe, and those left open."""
    lower, upper = groups.safe_at_least, groups.safe_at_most
    tally = [(k, sum(n == k for n in lower), sum(n == k for n in upper))
             for k in range(size, -1, -1)]  # fmt: skip
    most = max(max(low, up) for _, low, up in tally) or 1
    undecided = [g for g, (low, up) in enumerate(zip(lower, upper, strict=False)) if low < up]
    return {
        "size": size,
        "count": _count(len(lower)),
        "rows": [(k, _count(low), _count(up), round(100 * low / most, 1)) for k, low, up in tally],
        "undecided": undecided[:20],
        "more": max(0, len(undecided) - 20),
    }


def _training(material: Material) -> list[tuple[str, str]]:
    """Figures of the last epoch, as far as the method has them: a denoiser has no accuracy."""
    if not material.epochs:
        return []
    last, total = material.epochs[-1], sum(e["seconds"] for e in material.epochs)
    shares = (("accuracy", last.get("accuracy")), ("boxes certified", last.get("certified")))
    kappa = last.get("kappa")
    return [
        ("epochs", str(last["epoch"])),
        ("training time", seconds(total)),
        ("loss", f"{last['loss']:.4g}"),
        *((name, percent(share, " %")) for name, share in shares if share is not None),
        *([] if kappa is None else [("κ", f"≥ {kappa}")]),
    ]


def _config(material: Material) -> list[tuple[str, list[tuple[str, str]]]]:
    tables = []
    for table, values in (material.config or {}).items():
        if isinstance(values, dict):
            tables.append((str(table), [(str(k), _value(v, k)) for k, v in values.items()]))
    if material.record is not None:
        values = [(key, _value(getattr(material.record, key))) for key in _OPTIONS]
        tables.append(("evaluation", values))
    return tables


def _made_with(record: EvaluationRecord | None) -> list[tuple[str, str]]:
    """Proofs, hashes and versions that the figures rest on, as far as the record knows them."""
    if record is None:
        return []
    facts = (
        ("proofs", None if record.proofs is None else record.proofs.words()),
        ("network, SHA-256", record.weights),
        ("evaluation, SHA-256", record.identity),
    )
    return [*((name, value) for name, value in facts if value), *(record.versions or {}).items()]


def _value(value: Any, key: str = "") -> str:
    if key == "eps" and isinstance(value, float):
        return radius(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value in (None, "") else str(value)


def _commands(material: Material) -> list[list[str]]:
    """The commands that make it again, each cut before its options."""
    folder, commands = shlex.quote(str(material.folder)), []
    if material.config is not None:
        commands.append(f"citrus-lirpa train --config {folder}/{CONFIG_FILE} --out NEW")
    record = material.record
    if record is not None:
        network = network_arguments(material.folder, record, material.config)
        options = [
            radius_argument(material.folder, record, material.config),
            *(
                f"--{key.replace('_', '-')} {value}"
                for key in _OPTIONS
                if (value := getattr(record, key)) is not None  # of versions that knew it
            ),
            f"--limit {record.images}",
            *(["--clip"] if record.clip else []),
            *(["--held-out"] if record.held_out else []),
            *([f"--bounds {record.bounds}"] if record.bounds else []),
            *(["--proofs"] if record.proofs else []),
        ]
        commands.append(f"citrus-lirpa eval {network} {' '.join(options)}")
    return [re.split(" (?=--)", command) for command in commands]
