"""``citrus-lirpa doctor``."""

from __future__ import annotations

from .options import data_dir
from .output import Results, command, results


@command(
    "doctor",
    ("is all well here?", "citrus-lirpa doctor"),
    ("with data sets that lie elsewhere", "citrus-lirpa doctor --data-dir /data"),
    ("for a bug report", "citrus-lirpa doctor --json > doctor.json"),
)
@data_dir
@results
def doctor_command(**options) -> Results:
    """Versions, device, data sets, and a ten-second check that bounds can be trusted."""
    from .actions import doctor

    return doctor.run(**options)
