"""``citrus-lirpa check``."""

from __future__ import annotations

import click

from .choices import STAGES
from .output import Results, command, results
from .types import FILE


@command(
    "check",
    ("write proofs, and check them", "citrus-lirpa eval runs/digits --proofs"),
    ("", "citrus-lirpa check runs/digits"),
    ("in fractions, where the network is small", "citrus-lirpa check runs/digits --exact"),
)
@click.argument("folder", type=FILE)
@click.option(
    "--method",
    type=click.Choice(list(STAGES)),
    help="Of eval-METHOD.json.  [default: of the strongest method there is]",
)
@click.option(
    "--exact", is_flag=True, help="Compute in fractions, without any rounding: small networks only."
)
@results
def check_command(**options) -> Results:
    """Check the proofs of an evaluation: FOLDER is where eval --proofs wrote its results.

    Every certificate with a proof is checked by a program of its own, which shares no code with
    the verifier. Prints what it refuses and why, and then exits with 1. The record eval-METHOD.json
    says from then on how many certificates were checked.
    """
    from .actions import check

    return check.run(**options)
