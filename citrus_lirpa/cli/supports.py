"""``citrus-lirpa supports``: what queries are decided."""

from __future__ import annotations

import click

from .choices import CAPABILITIES
from .output import command


@command(
    "supports",
    ("which operators networks may have", "citrus-lirpa supports --onnx-operators"),
    ("which arithmetic", "citrus-lirpa supports --arithmetic-complexity-theories"),
)
@click.pass_context
def supports_command(ctx, capability) -> None:
    """Say what queries verify decides, in the words of the VNN-LIB 2.0 standard."""
    if capability is None:
        raise click.UsageError(f"give one of --{', --'.join(CAPABILITIES)}", ctx)
    from ..verify.queries.capabilities import CAPABILITIES as ANSWERS

    click.echo("\n".join(ANSWERS[capability]))


for _name, _help in reversed(CAPABILITIES.items()):
    _flags = [f"--{_name}"]
    if _name == "multiple-input-output-theories":
        _flags.append("--multiple-inputs-output-theories")  # as the standard's example has it
    supports_command = click.option(*_flags, "capability", flag_value=_name, help=_help)(
        supports_command
    )
