"""``citrus-lirpa config``."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator

import click

from ...reports.tables import table
from ...training.keys import Key, find, keys
from ..output import Results

_WIDTH, _INDENT = 96, " " * 11


def run(key) -> Results:
    """Do what ``citrus-lirpa config`` is for."""
    found = find(key) if key else keys()
    if key:
        bold = ([click.style(each.name, bold=True), *_lines(each)] for each in found)
        click.echo("\n\n".join(map("\n".join, bold)))
    else:
        rows = [
            (e.name, e.default, textwrap.shorten(e.summary, 70, placeholder=" …")) for e in found
        ]
        click.echo(table([("key", "default", "meaning"), *rows], ("<", "<", "<")))
    return {"keys": [dataclasses.asdict(each) for each in found]}


def _lines(key: Key) -> Iterator[str]:
    for use in key.uses:
        if use.of:
            yield _line("of", ", ".join(use.of))
        yield _line("meaning", use.meaning)
        yield _line("type", use.type)
        yield _line("default", use.default)
    if key.allowed:
        yield _line("allowed", ", ".join(key.allowed))
    for kind, values in key.set_by.items():
        for value, names in values.items():
            yield _line(kind, f"{value}: {'; '.join(names)}")


def _line(title: str, text: str) -> str:
    begin = f"  {title:<{len(_INDENT) - 2}}"
    return textwrap.fill(text, _WIDTH, initial_indent=begin, subsequent_indent=_INDENT)
