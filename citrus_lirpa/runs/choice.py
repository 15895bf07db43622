"""Values that a TOML file gives to runs: preset, method and TABLE.KEY, and options of eval."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..errors import ConfigError, expect_known, require
from ..training.config import RunConfig, named, resolve
from ..training.toml import parse_override
from ..verify import Protocol

#: Keys that do not have the form TABLE.KEY.
SPECIAL = ("preset", "method")

Choice = Mapping[str, Any]  # the values of preset, method and TABLE.KEY


def configure(choice: Choice) -> RunConfig:
    """Resolve the configuration of a run; raise InputError where a value cannot be used."""
    special = {key: choice[key] for key in SPECIAL if key in choice}
    return named(resolve(**special, overrides=overrides(choice)))


def overrides(choice: Choice) -> list[str]:
    """Return ``choice`` without the special keys, as TABLE.KEY=VALUE."""
    return [f"{key}={_written(v)}" for key, v in choice.items() if key not in SPECIAL]


def flat(table: dict[str, Any]) -> dict[str, Any]:
    """Turn ``train.seed = 1`` without quotes, which TOML nests, into ``"train.seed" = 1``."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        inner = value if isinstance(value, dict) else None
        found.update({key: value} if inner is None else {f"{key}.{k}": v for k, v in inner.items()})
    return found


def check_key(key: str, table: str) -> None:
    """Raise ConfigError unless ``key`` has the form TABLE.KEY."""
    misplaced = f"{key} does not go into [{table}]; give it above all tables"
    require(key not in SPECIAL, misplaced, ConfigError)
    malformed = f"'{key}' in [{table}] is malformed; expected TABLE.KEY, as train.seed"
    require(key.count(".") == 1, malformed, ConfigError)


def check_value(key: str, value: Any) -> None:
    """Raise ConfigError unless ``value`` is a number, a text, true, false or a list of them."""
    for one in value if isinstance(value, list) else [value]:
        expected = "expected a number, a text, true, false or a list"
        holds = isinstance(one, (str, int, float))
        require(holds, f"{key} is {value!r}; {expected}", ConfigError)


def evaluation(table: dict[str, Any], name: str) -> dict[str, Any]:
    """Read the options of ``eval`` in the table ``name``, by the names of Protocol's fields.

    Raises:
        ConfigError: A key is unknown, or a value is none.
    """
    known = [dashed(field.name) for field in fields(Protocol)]
    for key, value in table.items():
        expect_known(f"key in [{name}]", dashed(key), known)
        single = f"{key} in [{name}] is {value!r}; expected one value for all runs"
        require(isinstance(value, (str, int, float)), single, ConfigError)
    return {key.replace("-", "_"): value for key, value in table.items()}


def dashed(name: str) -> str:
    """Write the name of a field as that of an option."""
    return name.replace("_", "-")


def _written(value: Any) -> str:
    if isinstance(value, str) and parse_override(f"a.b={value}")[1] == value:
        return value
    return json.dumps(value, ensure_ascii=False)
