"""``citrus-lirpa report``."""

from __future__ import annotations

from pathlib import Path

import click

from ...formats import atomic
from ...reports.page import make_page
from ...runs.folder import RunFolder
from ..output import Results
from .common import found_runs


def run(folders, method, out) -> Results:
    """Do what ``citrus-lirpa report`` is for."""
    folders = found_runs(folders)
    page = make_page(folders, method)
    out = out or RunFolder(folders[0] if len(folders) == 1 else Path()).report
    atomic.write_text(out, page)
    click.echo(f"report: {out}")
    return {"runs": [str(folder) for folder in folders], "files": {"report": str(out)}}
