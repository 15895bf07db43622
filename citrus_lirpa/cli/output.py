"""What commands print, for people and for machines, and the examples in their help.

``citrus-lirpa --help`` imports this too, so what costs time is imported where it is used.
"""

from __future__ import annotations

import contextlib
import functools
import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from .._version import __version__

#: How every command is asked for help.
HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
#: A command's results as plain values; None where it has none.
Results = dict[str, Any] | None


def examples(*pairs: tuple[str, str]) -> str:
    """Format the end of a command's help: pairs of what a command does, and the command.

    What it does is empty where it belongs to the one before.
    """
    lines = []
    for what, command in pairs:
        lines += [f"  # {what}"] if what else []
        lines.append(f"  {command}")
    return "\n".join(["\b", "Examples:", *lines])


def command(name: str, *pairs: tuple[str, str]) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a command of this name, whose help ends with ``examples`` of these pairs."""
    return click.command(name, epilog=examples(*pairs))


def results(command: Callable[..., Results]) -> Callable[..., None]:
    """Give a command --json and --verbose; it returns its results as JSON can hold them, or None.

    With --json, what the command returns is the only thing on stdout, as one object; what it
    prints goes to stderr, or nowhere with --quiet. A command that fails leaves stdout empty.
    """

    @click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Results as one JSON object on stdout; everything else on stderr.",
    )
    @click.option(
        "--verbose",
        is_flag=True,
        help="Also report what is read and written, and with what versions.",
    )
    @functools.wraps(command)
    def printing(*, as_json: bool, verbose: bool, **options: Any) -> None:
        if verbose and options.get("quiet"):
            raise click.UsageError("--quiet and --verbose exclude each other; drop one")
        with _log_to_stderr() if verbose else contextlib.nullcontext():
            if not as_json:
                command(**options)
                return
            with contextlib.redirect_stdout(io.StringIO() if options.get("quiet") else sys.stderr):
                record = command(**options)
        if record is not None:
            import json

            click.echo(json.dumps(record, indent=2, ensure_ascii=False))

    return printing


def highlight(table: str, colours: Mapping[str, str]) -> str:
    """Print the lines of ``table`` that begin with a key in bold, in the colour of the key."""

    def shown(line: str) -> str:
        found = [colour for start, colour in colours.items() if line.startswith(start)]
        return click.style(line, fg=found[0], bold=True) if found else line

    return "\n".join(map(shown, table.splitlines()))


@contextlib.contextmanager
def _log_to_stderr():
    """Send what the package logs to stderr, inside the block."""
    import logging
    import platform

    import torch

    logger = logging.getLogger("citrus_lirpa")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    versions = (__version__, platform.python_version(), torch.__version__, platform.system())
    logger.debug("citrus-lirpa %s, Python %s, torch %s, %s", *versions)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates


def echo_set_aside(folder: Path) -> None:
    """Say where earlier results are kept, which new ones of other settings replace."""
    click.echo(f"earlier results, of other settings, are kept in {folder}", err=True)
