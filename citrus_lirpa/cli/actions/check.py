"""``citrus-lirpa check``."""

from __future__ import annotations

import click

from ...errors import SoundnessError
from ...reports.tables import counted
from ...runs.checking import check_run
from ..output import Results

_MOST_LINES = 20


def run(folder, method, exact) -> Results:
    """Do what ``citrus-lirpa check`` is for."""
    record, summary = check_run(folder, method, exact=exact)
    for line in summary.refused[:_MOST_LINES]:
        click.echo(f"refused: {line}")
    if len(summary.refused) > _MOST_LINES:
        click.echo(f"and {len(summary.refused) - _MOST_LINES} more")
    proofs = record["proofs"]
    click.echo(
        f"{summary.images} of {proofs['images']} images and {summary.groups} of "
        f"{proofs['groups']} groups hold in {record.get('arithmetic', 'real')} arithmetic, "
        f"by {proofs['checker']}"
    )
    if summary.refused:
        raise SoundnessError(f"{counted(len(summary.refused), 'refusal')} in {folder}; the first: "
                             f"{summary.refused[0]}")  # fmt: skip
    return proofs
