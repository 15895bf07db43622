"""Search spaces: the values that tuning tries, as data of the package and in files of users."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from ...errors import ConfigError, expect_known, require
from ...formats.schema import Flag, Fraction, checked
from ...training.toml import parse_toml
from ..choice import check_key, check_value

_LARGEST = 2**31


@checked("range")
class Range:
    """The numbers from ``low`` to ``high``.

    Args:
        low: The least.
        high: The largest.
        log: Whether the orders of magnitude are tried alike.
        whole: Whether only whole numbers are tried.
        share_of_epochs: Whether the numbers are shares of the epochs of the training.
    """

    low: Fraction
    high: Fraction
    log: Flag = False
    whole: Flag = False
    share_of_epochs: Flag = False

    def __post_init__(self) -> None:
        require(
            -_LARGEST < self.low < self.high < _LARGEST,
            f"the range is from {self.low:g} to {self.high:g}; expected low < high",
            ConfigError,
        )
        require(
            not self.log or self.low > 0,
            f"low is {self.low:g}; expected a number > 0 where log = true",
            ConfigError,
        )
        require(
            not self.whole or self.low == int(self.low) and self.high == int(self.high),
            f"the range is from {self.low:g} to {self.high:g}; expected whole numbers where "
            "whole = true",
            ConfigError,
        )

    def ends(self) -> tuple[float, ...]:
        """Return the numbers that must be usable."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def near(self, value: Any) -> float | None:
        """Return the number of the range that is nearest to ``value``; None for no number."""
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return None
        inside = min(max(value, self.low), self.high)
        return round(inside) if self.whole else float(inside)


@checked("choice")
class Choice:
    """A few values.

    Args:
        choices: The values. Storages get them as text, since some lose lists.
    """

    choices: tuple[Any, ...]

    def __post_init__(self) -> None:
        require(self.choices, "choices is []; expected the values to choose from", ConfigError)
        for value in self.choices:
            check_value("choices", value)

    def ends(self) -> tuple[Any, ...]:
        """Return the values that must be usable."""
        return self.choices

    def near(self, value: Any) -> Any:
        """Return ``value``, or None where it is not one of the choices."""
        same = [one for one in self.texts() if one == text_of(value)]
        return value_of(same[0]) if same else None

    def texts(self) -> tuple[str, ...]:
        """Return the values as text."""
        return tuple(map(text_of, self.choices))


Parameter = Range | Choice


def text_of(value: Any) -> str:
    """Write a value of a choice as a storage gets it."""
    return json.dumps(value, ensure_ascii=False)


def value_of(text: str) -> Any:
    """Read what ``text_of`` wrote."""
    return json.loads(text)


def shipped(method: str) -> dict[str, Parameter]:
    """Return the search space of a training method, by TABLE.KEY."""
    text = (resources.files(__package__) / "spaces.toml").read_text("utf-8")
    tables = parse_toml(text, "spaces.toml")
    expect_known("method", method, tables["methods"])
    entries = [
        entry for part in tables["methods"][method] for entry in tables["parts"][part].items()
    ]
    return {key: _parameter(key, values) for key, values in entries}


def parse(table: Mapping[str, Any]) -> dict[str, Parameter]:
    """Read the table [space] of a file."""
    found: dict[str, Parameter] = {}
    for key, value in table.items():
        tables = isinstance(value, dict) and all(isinstance(v, dict) for v in value.values())
        # train.lr without quotes is nested
        named = {f"{key}.{k}": v for k, v in value.items()} if tables else {key: value}
        for full, one in named.items():
            check_key(full, "space")
            found[full] = _parameter(full, one)
    return found


def _parameter(key: str, values: Any) -> Parameter:
    expected = "{ low = 0.1, high = 1.0 } or { choices = [1, 2] }"
    is_table = isinstance(values, dict)
    require(is_table, f"{key} in [space] is {values!r}; expected {expected}", ConfigError)
    try:
        return Choice(**values) if "choices" in values else Range(**values)
    except ConfigError as error:
        raise ConfigError(f"{key} in [space]: {error}; expected for example {expected}") from None
