"""``citrus-lirpa config``."""

from __future__ import annotations

import click

from .output import Results, command, results


@command(
    "config",
    ("all keys", "citrus-lirpa config"),
    ("one of them, with the presets and methods that set it", "citrus-lirpa config train.l1"),
    ("those of a table", "citrus-lirpa config train"),
    ("set one", "citrus-lirpa train --preset digits --set train.l1=1e-4"),
)
@click.argument("key", required=False)
@results
def config_command(**options) -> Results:
    """Say what a key of the configuration means: its type, its default, and what sets it.

    Without KEY, list all keys. They stand in the TOML files of `train --config` and `sweep`, and
    in `train --set KEY=VALUE`.
    """
    from .actions import config

    return config.run(**options)
