"""Tables of plain values, as TOML gives them, to typed ones; each error names its key."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ConfigError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


#: Of a TOML file; the parser takes minutes for some of a few hundred kilobytes.
_LONGEST = 2**15


def parse_number(text: str | float) -> float:
    """A number or a fraction such as ``8/255``."""
    try:
        numerator, slash, denominator = str(text).partition("/")
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"'{text}' is not a number; expected one like 0.1 or 8/255") from None


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only options of a registered function and their types."""
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    return {p.name: hints[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}


def parse_toml(text: str, source: str) -> dict[str, Any]:
    if len(text) > _LONGEST:
        raise ConfigError(f"{source} has {len(text)} characters; expected at most {_LONGEST}")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also an impossible date
        raise ConfigError(f"{source} is not valid TOML: {error}") from error


def parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or key.count(".") != 1:
        raise ConfigError(f"override {text!r} is malformed; expected table.key=value")
    try:
        return key, tomllib.loads(f"v = {value}")["v"]
    except (ValueError, RecursionError):
        return key, value  # a bare word or a fraction is a string


def to_dataclass(kind: type, values: dict[str, Any], table: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    types = typing.get_type_hints(kind)
    _check_keys(values, list(fields), table)
    missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in values]
    if missing:
        raise ConfigError(f"{table}.{missing[0]} is missing; give it in [{table}]")
    return kind(**{k: _coerced(v, types[k], f"{table}.{k}") for k, v in values.items()})


def knows(registry: Mapping[str, Any], name: object) -> bool:
    return isinstance(name, str) and name in registry


def to_options(values: dict[str, Any], table: str, registry: Mapping[str, Any]) -> dict[str, Any]:
    name: Any = values.get("name")
    if not knows(registry, name):
        raise ConfigError(unknown(f"{table}.name", name, registry))
    types = options_of(registry[name])
    _check_keys(values, ["name", *types], f"{table} (of {name})")
    required = {
        p.name
        for p in inspect.signature(registry[name]).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty
    }
    if missing := sorted(required - set(values)):
        raise ConfigError(f"{table}.{missing[0]} is missing; {name} needs it")
    options = {k: _coerced(v, types[k], f"{table}.{k}") for k, v in values.items() if k != "name"}
    return {"name": name, **options}


def _check_keys(values: dict[str, Any], known: list[str], table: str) -> None:
    for key in values:
        if key not in known:
            raise ConfigError(unknown(f"key in {table}", key, known))


def _coerced(value: Any, kind: Any, key: str) -> Any:
    """``value`` as ``kind``: numbers may be fractions in strings, lists become tuples."""
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return parse_number(value)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from None
    if typing.get_origin(kind) is not None:  # tuple[float, ...], Sequence[int]
        if isinstance(value, (list, tuple)):
            return tuple(_coerced(v, typing.get_args(kind)[0], key) for v in value)
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    name = getattr(kind, "__name__", str(kind))
    raise ConfigError(f"{key} is {value!r}; expected {name}")
