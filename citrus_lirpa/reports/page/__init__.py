"""Runs as one HTML page: their figures, curves, pictures and configuration.

The page needs nothing but itself: no script, no font, no picture from elsewhere, and its own
security policy forbids them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import compare
from ..tables import percent
from . import charts, views
from .gather import Material, gather
from .images import Album
from .template import render

#: Worst groups pictured of a single run, and of all runs of a page together at most.
_GROUPS, _GROUPS_OF_ALL = 6, 12


def make_page(folders: Sequence[Path], stage: str | None = None) -> str:
    """Make the HTML page of run folders, or of folders that ``eval`` made for ONNX files.

    What a folder lacks is left out, and the page says how to make it. The evaluations shown are
    those by ``stage``; None for the strongest of each run.

    Raises:
        InputError: A folder is given twice.
        CheckpointError: One is no run folder, has no evaluation by ``stage``, or holds a damaged
            file.
    """
    names = compare.short_names(folders)
    materials = [gather(folder, name, stage) for folder, name in zip(folders, names, strict=True)]
    album = Album()
    groups = min(_GROUPS, max(1, _GROUPS_OF_ALL // len(materials)))
    runs = [
        views.view(material, number, album, groups=groups)
        for number, material in enumerate(materials, 1)
    ]
    return render(
        "page.html",
        title=", ".join(names) if len(names) < 4 else f"{len(names)} runs",
        runs=runs,
        comparison=_comparison(materials) if len(materials) > 1 else [],
        pictures_left_out=album.full,
    )


def _comparison(materials: Sequence[Material]) -> list[dict[str, Any]]:
    """A table and a chart for each setting that evaluated runs share."""
    numbers = {material.name: number for number, material in enumerate(materials, 1)}
    runs = [material.run for material in materials if material.run is not None]
    settings = compare.by_setting(runs)
    return [
        {
            "setting": str(setting),
            "differences": compare.differences(members),
            "chart": charts.pareto(members, numbers, f"front-{place}")
            if len(members) > 1
            else None,
            "rows": [
                {
                    "number": numbers[run.run],
                    "name": run.run,
                    "method": "trained elsewhere" if run.method == "-" else run.method,
                    "standard": percent(run.standard_accuracy),
                    "alone": percent(run.certified_accuracy),
                    "lower": percent(run.certified_uap_accuracy),
                    "upper": percent(run.attacked_uap_accuracy),
                    "gap": percent(run.attacked_uap_accuracy - run.certified_uap_accuracy),
                    "time": views.seconds(run.training_seconds),
                    "front": run in compare.pareto_front(members),
                }
                for run in members
            ],
        }
        for place, (setting, members) in enumerate(settings.items())
    ]
