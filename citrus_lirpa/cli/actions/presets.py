"""``citrus-lirpa presets``."""

from __future__ import annotations

from typing import Any

import click

from ...reports import compare
from ...reports.tables import radius
from ...training import config
from ..output import Results
from .common import print_names


def run() -> Results:
    """Do what ``citrus-lirpa presets`` is for."""
    presets = [_preset(name) for name in config.presets()]
    methods = [_method(name) for name in config.methods()]
    print_names("presets", "--preset", [(p["name"], _in_words(p)) for p in presets])
    click.echo()
    print_names(
        "methods",
        "--method",
        [
            (m["name"], ", ".join(part for part in (m["title"], m["source"]) if part != "-"))
            for m in methods
        ],
    )
    return {"presets": presets, "methods": methods}


def _preset(name: str) -> dict[str, Any]:
    settings = config.resolve(preset=name)
    return {
        "name": name,
        "data": settings.data.name,
        "eps": settings.train.eps,
        "model": settings.model["name"],
        "epochs": settings.train.epochs,
        "batch_size": settings.train.batch_size,
    }


def _in_words(preset: dict[str, Any]) -> str:
    return (
        f"{preset['data']}, ε = {radius(preset['eps'])}, {preset['model']}, "
        f"{preset['epochs']} epochs, batch {preset['batch_size']}"
    )


def _method(name: str) -> dict[str, str]:
    title, source = compare.name_in_papers(config.resolve(preset="digits", method=name).loss)
    return {"name": name, "title": title, "source": source}
