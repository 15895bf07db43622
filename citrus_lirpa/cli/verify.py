"""``citrus-lirpa verify``: one VNN-LIB query."""

from __future__ import annotations

import click

from .output import command
from .types import FILE, NetworkFile


@command(
    "verify",
    ("a property of VNN-COMP", "citrus-lirpa verify prop.vnnlib.gz --network N=net.onnx"),
    (
        "whether one perturbation breaks more than one of five images",
        "citrus-lirpa export runs/mnist --uap --at-least 4 --limit 5 --out query",
    ),
    ("", "citrus-lirpa verify query/group_00000_at_least_4.vnnlib --network N0=query/model.onnx"),
)
@click.argument("query", type=FILE)
@click.option(
    "--network",
    "networks",
    type=NetworkFile(),
    multiple=True,
    metavar="NAME=FILE.onnx",
    help="The file of a network of the query; one for each network that is no copy (equal-to).",
)
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds.  [default: no limit]")
@click.option(
    "--serialise-assignments",
    "--assignments",
    "assignments",
    type=FILE,
    metavar="FOLDER",
    help="Write the values of a satisfiable query there, as NAME.pb, and do not print them.",
)
def verify_command(query, networks, timeout, assignments) -> None:
    """Decide a query in VNN-LIB 2.0 or 1.0, about one network or several with tied inputs.

    Prints sat, unsat, unknown or timed-out, and after sat the values of all tensors. The reason for
    unknown goes to stderr. The exit status is 0 for each of these answers.
    """
    from .actions import verify

    verify.run(query, networks, timeout, assignments)
