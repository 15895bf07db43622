"""Fronts of tuned methods as one HTML page, with the configuration of every point of a front."""

from __future__ import annotations

from .. import fronts as tables
from ..fronts import Fronts
from ..tables import percent
from . import charts
from .template import render


def make_front_page(fronts: Fronts) -> str:
    """Make the HTML, which needs nothing but itself."""
    return render(
        "fronts.html",
        title=", ".join(one.study.name for one in fronts.tuned),
        setting=fronts.setting(),
        reference=f"{fronts.reference[0]:g}, {fronts.reference[1]:g}",
        chart=charts.fronts(fronts),
        summary=tables.summary_rows(fronts),
        combined=tables.front_rows(fronts),
        importance=tables.importance_rows(fronts),
        points=[
            {
                "study": one.study.name,
                "method": one.title,
                "trial": point.number,
                "standard": percent(point.standard),
                "ucert": percent(point.ucert),
                "config": one.config(point).to_toml(),
            }
            for one in fronts.tuned
            for point in fronts.front(one)
        ],
    )
