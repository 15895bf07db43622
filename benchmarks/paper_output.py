"""What paper.py leaves: the machine, a Markdown table, and a picture."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from citrus_lirpa.formats import atomic as files

_COLUMNS = (
    ("Std, paper", "paper", "standard"),
    ("Std, ours", "ours", "standard"),
    ("UCert, paper", "paper", "ucert"),
    ("UCert, ours", "ours", "ucert"),
    ("under attack, ours", "ours", "attacked"),
    ("minutes, paper", "paper", "minutes"),
    ("minutes, ours", "ours", "minutes"),
)
#: Figures as lines: the label on the abscissa.
_LINES = {"figure5a": ("tau_ratio", "τ/ε"), "figure5b": ("batch_size", "batch size")}


def machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {device}; Python "
        f"{platform.python_version()}, torch {torch.__version__}; {date.today()}"
    )


def markdown(title: str, record: dict[str, Any]) -> str:
    """A table of all rows; columns that are empty throughout are left out."""
    rows = record["rows"]
    columns = [c for c in _COLUMNS if any(_value(row, c) is not None for row in rows)]
    labels = list(rows[0]["labels"])
    lines = [
        f"### {title}, scale {record['scale']}",
        "",
        f"{record['machine']}.",
        "",
        "| " + " | ".join([*labels, *(name for name, *_ in columns)]) + " |",
        "|" + "---|" * len(labels) + "--:|" * len(columns),
    ]
    for row in rows:
        cells = [str(row["labels"][label]) for label in labels]
        if row["ours"] is None:
            cells[-1] += " (not run)"
        values = (_value(row, column) for column in columns)
        cells += ["-" if v is None else f"{v:.2f}" for v in values]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _value(row: dict[str, Any], column: tuple[str, str, str]) -> float | None:
    _, whose, key = column
    return (row[whose] or {}).get(key)


def draw(target: str, title: str, rows: list[dict[str, Any]], path: Path) -> None:
    """A picture of the rows that were run; of a table, with the paper's points."""
    run = [row for row in rows if row["ours"]]
    if not run:
        return
    if target in _LINES:
        figure = _lines(run, *_LINES[target])
    elif target == "table4":
        figure = _bars(run)
    else:
        figure = _points(run)
    figure.suptitle(title, fontsize=11)
    files.write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130))


def _lines(rows: list[dict[str, Any]], key: str, label: str) -> Figure:
    figure = Figure((5.6, 4), layout="constrained")
    axes = figure.subplots()
    x = [row["labels"][key] for row in rows]
    for name, what in (("standard", "standard accuracy"), ("ucert", "UCert")):
        axes.plot(x, [row["ours"][name] for row in rows], marker="o", label=what)
    axes.set(xlabel=label, ylabel="per cent", xticks=x, ylim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def _bars(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure((6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    names = [row["labels"]["preset"] for row in rows]
    bars = axes.barh(names, [row["ours"]["minutes"] for row in rows], color="C0")
    axes.bar_label(bars, [f"{row['ours']['minutes']:.1f}" for row in rows], padding=3)
    axes.set(xlabel="minutes of training, this machine")
    axes.invert_yaxis()
    axes.margins(x=0.15)
    return figure


def _points(rows: list[dict[str, Any]]) -> Figure:
    """Standard accuracy against UCert: filled ours, hollow the paper's."""
    settings = list(dict.fromkeys(row["labels"].get("preset", "") for row in rows))
    columns = min(2, len(settings))
    lines = -(-len(settings) // columns)
    figure = Figure((5.4 * columns, 4.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    methods = list(dict.fromkeys(row["labels"]["method"] for row in rows))
    for axes, setting in zip(panels, settings, strict=False):
        for row in rows:
            if row["labels"].get("preset", "") != setting:
                continue
            method = row["labels"]["method"]
            colour = f"C{methods.index(method)}"
            ours, theirs = row["ours"], row["paper"]
            axes.plot(ours["standard"], ours["ucert"], "o", color=colour, label=method)
            axes.plot(theirs["standard"], theirs["ucert"], "o", mfc="none", color=colour)
        axes.set(xlabel="standard accuracy (%)", ylabel="UCert (%)", title=setting)
        axes.grid(alpha=0.25)
    for axes in panels[len(settings) :]:
        axes.remove()
    panels[0].plot([], [], "o", mfc="none", color="0.4", label="the paper's")
    panels[0].legend(frameon=False, fontsize=8)
    return figure
