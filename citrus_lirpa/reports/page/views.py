"""What a page says of one run: words and numbers as they are printed, in the page's order."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from ...runs.folder import CONFIG_FILE
from .. import compare
from . import charts, perturbations
from .gather import Material, network_arguments
from .images import Album

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
    """The template's values of a run; ``groups`` is how many worst groups are pictured."""
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
        "groups": None if record is None else _groups(record),
        "curves": _curves(material),
        "training": _training(material),
        "uap": perturbations.universal(material, album),
        "worst": perturbations.worst_groups(material, album, groups),
        "config": _config(material),
        "commands": _commands(material),
    }


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"


def count(number: int) -> str:
    return f"{number:,}"


def seconds(time: float | None) -> str:
    if time is None:
        return "–"
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
        clip = "clipped to [0, 1]" if record["clip"] else "not clipped"
        chips += [
            f"ε = {compare.radius(record['eps'])}",
            f"{count(record['images'])} {'held-out' if record.get('held_out') else 'test'} images",
            f"groups of {record['group_size']}",
            clip,
        ]
    elif material.config is not None:
        eps = material.config.get("train", {}).get("eps")
        chips += [f"ε = {compare.radius(eps)}"] if isinstance(eps, (int, float)) else []
    return [chip for chip in chips if chip]


def _result(record: dict[str, Any]) -> dict[str, Any]:
    uap, shares, images = record["uap_accuracy"], record["shares"], record["images"]
    proving = [name for name in shares if name not in _UNPROVED]
    parts = [
        Part(name, f"p{min(i, _TINTS - 1)}", shares[name], 100 * shares[name] / images)
        for i, name in enumerate(proving)
    ] + [
        Part(label, name, shares.get(name, 0), 100 * shares.get(name, 0) / images)
        for name, label in _UNPROVED.items()
    ]
    *_, last = record["certified_accuracy"]
    gap = uap["attacked"] - uap["certified"]
    rows = [
        ("Standard accuracy", record["standard_accuracy"], "without a perturbation", ""),
        ("UCert", uap["certified"], "lower bound on the UAP accuracy of groups: proved", "lower"),
        ("UAP accuracy under attack", uap["attacked"], "upper bound: attacks on groups", "upper"),
        ("Gap", gap, "between the two bounds: neither proved nor broken", ""),
        (
            f"Certified alone, up to {last}",
            record["certified_accuracy"][last],
            "proved for each image by itself, any perturbation",
            "",
        ),
        (
            "Accuracy under single attacks",
            record.get("accuracy_under_single_attacks"),
            "each image attacked by itself (PGD)",
            "",
        ),
    ]
    return {
        "certified": percent(uap["certified"]),
        "attacked": percent(uap["attacked"]),
        "standard": percent(record["standard_accuracy"]),
        "gap": percent(gap),
        "gap_images": count(shares.get("undecided", 0)),
        "settled": shares.get("undecided", 0) == 0,
        "images": count(images),
        "group_size": record["group_size"],
        "eps": compare.radius(record["eps"]),
        "time": seconds(record["seconds"].get("total")),
        "parts": [part for part in parts if part.count],
        "rows": [
            (name, percent(share), "" if share is None else count(round(share * images)), *rest)
            for name, share, *rest in rows
        ],
    }


def _stages(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What settled how many images in what time, in the order of the evaluation."""
    shares, times, images = record["shares"], record["seconds"], record["images"]
    longest = max([t for name, t in times.items() if name != "total"], default=0) or 1
    attacked = shares.get("broken", 0)
    rows, proved = [], 0
    for name, time in times.items():
        if name == "total":
            continue
        settled = shares.get(name)
        note = record.get("unsupported", {}).get(name)
        if not_fitting := record.get("not_fitting", {}).get(name):
            note = f"{count(not_fitting)} images did not fit into memory"
        if settled is not None:
            proved += settled
        rows.append(
            {
                "name": name,
                "proves": settled is not None,
                "settled": "" if settled is None else count(settled),
                "proved": "" if settled is None else percent(proved / images),
                "seconds": f"{time:,.1f}",
                "bar": round(100 * time / longest, 1),
                "note": f"not possible: {note}" if name in record.get("unsupported", {}) else note,
            }
        )
    if rows and attacked:
        rows.append(
            {
                "name": "broken",
                "proves": False,
                "settled": count(attacked),
                "proved": "",
                "seconds": "",
                "bar": 0,
                "note": None,
            }
        )
    return rows


def _groups(record: dict[str, Any]) -> dict[str, Any]:
    """How many groups there are with 0, 1, 2, ... images proved safe, and those left open."""
    groups = record["groups"]
    lower, upper = groups["safe_at_least"], groups["safe_at_most"]
    tally = [(k, sum(n == k for n in lower), sum(n == k for n in upper))
             for k in range(record["group_size"], -1, -1)]  # fmt: skip
    most = max(max(low, up) for _, low, up in tally) or 1
    undecided = [g for g, (low, up) in enumerate(zip(lower, upper, strict=False)) if low < up]
    return {
        "size": record["group_size"],
        "count": count(len(lower)),
        "rows": [(k, count(low), count(up), round(100 * low / most, 1)) for k, low, up in tally],
        "undecided": undecided[:20],
        "more": max(0, len(undecided) - 20),
    }


def _curves(material: Material) -> list[charts.Chart]:
    if not material.epochs or material.config is None:
        return []
    return charts.curves(material.epochs)


def _training(material: Material) -> list[tuple[str, str]]:
    """Figures of the last epoch."""
    if not material.epochs:
        return []
    last, total = material.epochs[-1], sum(e["seconds"] for e in material.epochs)
    rows = [
        ("epochs", str(last["epoch"])),
        ("training time", seconds(total)),
        ("loss", f"{last['loss']:.4g}"),
        ("accuracy", f"{percent(last.get('accuracy'))} %"),
        ("boxes certified", f"{percent(last.get('certified'))} %"),
    ]
    if last.get("kappa") is not None:
        rows.append(("κ", f"≥ {last['kappa']}"))
    return rows


def _config(material: Material) -> list[tuple[str, list[tuple[str, str]]]]:
    tables = []
    for table, values in (material.config or {}).items():
        if isinstance(values, dict):
            tables.append((str(table), [(str(k), _value(v)) for k, v in values.items()]))
    if material.record is not None:
        keys = ("method", "relational", "group_size", "time_limit", "solver", "batch_size", "seed")
        values = [(key, _value(material.record.get(key))) for key in keys]
        tables.append(("evaluation", values))
    return tables


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_value, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value in (None, "") else str(value)


def _commands(material: Material) -> list[str]:
    """The commands that make it again."""
    folder, commands = shlex.quote(str(material.folder)), []
    if material.config is not None:
        commands.append(f"citrus-lirpa train --config {folder}/{CONFIG_FILE} --out NEW")
    record = material.record
    if record is not None:
        trained = material.config is not None
        network = network_arguments(material.folder, record, trained=trained)
        options = [
            f"--eps {record['eps']:.10g}",
            *(f"--{key.replace('_', '-')} {record[key]}" for key in _OPTIONS if key in record),
            f"--limit {record['images']}",
            *(["--clip"] if record["clip"] else []),
            *(["--held-out"] if record.get("held_out") else []),
        ]
        commands.append(f"citrus-lirpa eval {network} {' '.join(options)}")
    return commands


_OPTIONS = ("method", "relational", "group_size", "time_limit", "solver", "batch_size", "seed")
