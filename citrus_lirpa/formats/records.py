"""Files of plain values, read with an error that names the file, the entry and the fix."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError


def read_text(file: Path, remedy: str) -> str:
    """The text of ``file``; CheckpointError, with the ``remedy``, where it cannot be read."""
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}; {remedy}") from error


@dataclass(frozen=True)
class Record:
    """The values that stand in a file, and what to do where they are not as they should be."""

    file: Path
    values: dict[str, Any]
    remedy: str

    @staticmethod
    def parse(text: str, parser: Callable[[str], Any], file: Path, remedy: str) -> Record:
        """``text`` of ``file`` by ``parser``, which raises ValueError where it is malformed.

        Raises CheckpointError, also where the text is no table of values.
        """
        try:
            values = parser(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{file} is damaged: {error}; {remedy}") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{file} holds {values!r:.40}; expected an object; {remedy}")
        return Record(file, values, remedy)

    def entry(self, *keys: str, expected: str) -> Any:
        """The value at ``keys``, one table inside the other; ``expected`` is a key of _VALID.

        Raises CheckpointError where it is missing or not what is expected.
        """
        value: Any = self.values
        for depth, key in enumerate(keys, start=1):
            if not isinstance(value, dict) or key not in value:
                raise self._error(f"{'.'.join(keys[:depth])} is missing", expected)
            value = value[key]
        if not _VALID[expected](value):
            raise self._error(f"{'.'.join(keys)} is {value!r:.40}", expected)
        return value

    def _error(self, problem: str, expected: str) -> CheckpointError:
        return CheckpointError(f"{self.file}: {problem}; expected {expected}; {self.remedy}")


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return -math.inf < value < math.inf


def _is_epoch(value: object) -> bool:
    """Whether ``value`` has what every version has noted of an epoch; None where there is none."""
    keys = ("epoch", "eps", "loss", "accuracy", "certified", "seconds")
    return isinstance(value, dict) and all(
        key in value and (value[key] is None or _is_number(value[key])) for key in keys
    )


_VALID: dict[str, Callable[[Any], bool]] = {
    "a word": lambda v: isinstance(v, str) and bool(v) and v.isprintable(),
    "a whole number >= 0": lambda v: type(v) is int and v >= 0,
    "a whole number > 0": lambda v: type(v) is int and v > 0,
    "a number >= 0": lambda v: _is_number(v) and v >= 0,
    "a share from 0 to 1": lambda v: _is_number(v) and 0 <= v <= 1,
    "true or false": lambda v: isinstance(v, bool),
    "a table": lambda v: isinstance(v, dict) and bool(v),
    "a table or {}": lambda v: isinstance(v, dict),
    "a table of numbers": lambda v: isinstance(v, dict) and all(map(_is_number, v.values())),
    "a list of epochs": lambda v: isinstance(v, list) and all(map(_is_epoch, v)),
    "null or a range [low, high]": lambda v: (
        v is None or (isinstance(v, list) and len(v) == 2 and all(map(_is_number, v)))
    ),
}
