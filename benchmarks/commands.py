"""Commands of this package in a script, which stops with one line where one of them does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from citrus_lirpa.errors import CitrusError, Interrupted


def citrus_lirpa(*words: object) -> None:
    """Run a command; where it fails, end with its exit status, as it has said why."""
    if status := exit_status(*words):
        raise SystemExit(status)


def exit_status(*words: object) -> int:
    """Run a command and return its exit status.

    Ctrl-C reaches the command too, which saves before it ends; so it is waited for.
    """
    process = subprocess.Popen([sys.executable, "-m", "citrus_lirpa", *map(str, words)])
    status = None
    while status is None:
        with suppress(KeyboardInterrupt):
            status = process.wait()
    return status


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an error of this package that the block raises into a line and an exit status.

    After an interruption, which the same command continues, the line says so.
    """
    try:
        yield
    except CitrusError as error:
        more = "; the same command continues" if isinstance(error, Interrupted) else ""
        line = click.ClickException(f"{error}{more}")
        line.exit_code = error.exit_code
        raise line from None
