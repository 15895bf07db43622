"""``citrus-lirpa front``."""

from __future__ import annotations

from pathlib import Path

import click

from ...errors import require
from ...formats import atomic
from ...reports import front_plot, fronts
from ...reports.page.fronts import make_front_page
from ..output import Results


def run(files, reference, markdown, out) -> Results:
    """Do what ``citrus-lirpa front`` is for."""
    require(len(reference) == 2, f"--reference has {len(reference)} numbers; expected two, as 0,0")
    found = fronts.read_fronts(files, reference)
    click.echo(fronts.format_fronts(found, markdown=markdown))
    record = fronts.to_json(found)
    written = {
        "results": out / "front.json",
        "picture": out / "front.png",
        "page": out / "front.html",
        "configurations": _write_configurations(found, out / "front"),
    }
    atomic.write_json(written["results"], record)
    front_plot.plot_fronts(found, written["picture"])
    atomic.write_text(written["page"], make_front_page(found))
    for kind, path in written.items():
        click.echo(f"{kind}: {path}", err=markdown)
    return {**record, "files": {kind: str(path) for kind, path in written.items()}}


def _write_configurations(found: fronts.Fronts, folder: Path) -> Path:
    """Write each point of a front as a file that ``train`` takes."""
    for one in found.tuned:
        for point in found.front(one):
            file = folder / f"{one.study.name}-{point.number:04d}.toml"
            atomic.write_text(file, one.config(point).to_toml())
    return folder
