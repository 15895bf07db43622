"""TOML: files, and the values of overrides."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..errors import ConfigError, without_path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Characters of a TOML file; the parser takes minutes for some longer ones.
_LONGEST = 2**15


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Parse TOML.

    Args:
        text: What a file holds.
        source: Name of the file, for messages.

    Raises:
        ConfigError: The text is too long, or no TOML.
    """
    if len(text) > _LONGEST:
        raise ConfigError(f"{source} has {len(text)} characters; expected at most {_LONGEST}")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also an impossible date
        raise ConfigError(f"{source} is not valid TOML: {error}") from error


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: The file.
        what: What it is, for messages.

    Raises:
        ConfigError: It cannot be read, is too long, or is no TOML.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the {what} {path}: {without_path(error)}") from error
    return parse_toml(text, str(path))


def parse_override(text: str) -> tuple[str, Any]:
    """Split an override ``table.key=value`` into its key and its value.

    A value that is no TOML, such as a bare word or a fraction, is a string.

    Raises:
        ConfigError: The text is not of this form.
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or key.count(".") != 1:
        raise ConfigError(f"override {text!r} is malformed; expected table.key=value")
    try:
        return key, tomllib.loads(f"v = {value}")["v"]
    except (ValueError, RecursionError):
        return key, value
