"""What every key of a configuration means, read from the code that takes it.

Meanings are the ``Args`` of docstrings; types, limits and defaults are those of the signatures.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Annotated, Any

from ..errors import ConfigError, unknown
from ..formats.schema import options_of
from ..losses.checks import TRAINABLE
from ..losses.citrus import REDUCTIONS
from ..losses.cross_input import PAIRINGS
from .config import MODES
from .layers import REGISTRIES, Tables, layered, methods, presets
from .tables import NAMES, DataConfig, TrainConfig

_REQUIRED = "required"
_TYPES = {bool: "true or false", str: "text", int: "whole number", float: "number, as 0.1 or 8/255"}
#: What a key may be where only a function of the loss checks it.
_CHECKED = {"loss.method": TRAINABLE, "loss.reduction": REDUCTIONS, "loss.pairing": PAIRINGS}


@dataclass(frozen=True)
class Use:
    """What a key is to some networks or losses, or to all runs.

    Attributes:
        of: The names of the networks or losses; none for all runs.
        meaning: What it does.
        type: What its values are, in words.
        default: Its value where nothing gives it, as TOML has it.
    """

    of: tuple[str, ...]
    meaning: str
    type: str
    default: str


@dataclass(frozen=True)
class Key:
    """A key of a configuration.

    Attributes:
        name: ``table.key``.
        uses: What it is; several where networks or losses differ in it.
        allowed: The names that it may be, in a fixed set; none for other values.
        set_by: Who sets it, by value: each "preset", with its own method; each "method" that
            differs from this one; each "mode".
    """

    name: str
    uses: tuple[Use, ...]
    allowed: tuple[str, ...]
    set_by: Mapping[str, Mapping[str, tuple[str, ...]]]

    @property
    def default(self) -> str:
        """The default, or that it depends on the network or loss."""
        different = {use.default for use in self.uses}
        return self.uses[0].default if len(different) == 1 else "depends"

    @property
    def summary(self) -> str:
        """The first sentence of what it means."""
        return re.split(r"(?<=\.)\s", self.uses[0].meaning)[0]


@cache
def keys() -> tuple[Key, ...]:
    """Return all keys, table by table."""
    uses = {
        **_of_class("data", DataConfig),
        **_of_registry("model"),
        **_of_registry("loss"),
        **_of_class("train", TrainConfig),
    }
    return tuple(
        Key(
            name,
            tuple(of),
            _allowed(name),
            {"preset": _presets(name), "method": _methods(name), "mode": _modes(name)},
        )
        for name, of in uses.items()
    )


def find(name: str) -> list[Key]:
    """Return the key of a name, those of a table, or those that end like it in any table.

    Raises:
        ConfigError: There is none.
    """
    every = keys()
    found = [key for key in every if key.name == name or name in key.name.split(".")]
    if not found:
        names = [key.name for key in every]
        raise ConfigError(unknown("key", name, names, ["those of citrus-lirpa config"]))
    return found


def meanings(documented: Any) -> dict[str, str]:
    """Return the ``Args`` of a docstring in Google's form, each on one line.

    Args:
        documented: A function, or a class, which has those of its bases too.
    """
    if isinstance(documented, type):
        return {k: v for kind in reversed(documented.__mro__) for k, v in _args(kind).items()}
    return _args(documented)


def _args(documented: Any) -> dict[str, str]:
    _, _, rest = inspect.cleandoc(documented.__doc__ or "").partition("\nArgs:\n")
    body = re.split(r"\n(?=\S)", rest)[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n(?: {5,}.*)?)*)", body, re.MULTILINE)
    roles = re.compile(r":\w+:`~?([^`]+)`|``([^`]+)``")
    return {name: roles.sub(r"`\1\2`", " ".join(text.split())) for name, text in entries}


# -- uses -----------------------------------------------------------------------------


def _of_class(table: str, kind: Any) -> dict[str, list[Use]]:
    told, hints = meanings(kind), typing.get_type_hints(kind, include_extras=True)
    return {
        f"{table}.{field.name}": [
            Use((), told[field.name], _type(hints[field.name]), _shown(field.default))
        ]
        for field in fields(kind)
    }


def _of_registry(table: str) -> dict[str, list[Use]]:
    """The options of all functions of a table; those that are alike are one use."""
    what = {"model": "Name of the network.", "loss": "Name of the loss; --method chooses it."}
    uses = {f"{table}.name": [Use((), what[table], _TYPES[str], _REQUIRED)]}
    for name, function in REGISTRIES[table].items():
        told = _told(function)
        for option, kind in options_of(function).items():
            default = inspect.signature(function).parameters[option].default
            new = Use((name,), told[option], _type(kind), _shown(default))
            same = uses.setdefault(f"{table}.{option}", [])
            for i, use in enumerate(same):
                if (use.meaning, use.default) == (new.meaning, new.default):
                    same[i] = Use((*use.of, name), use.meaning, use.type, use.default)
                    break
            else:
                same.append(new)
    return uses


def _told(function: Callable[..., Any]) -> dict[str, str]:
    """The meanings of the options of a network's or a loss's function."""
    sources = getattr(function, "explained_by", (function,))
    return {name: text for source in sources for name, text in meanings(source).items()}


def _allowed(name: str) -> tuple[str, ...]:
    table, _, key = name.partition(".")
    if key == "name" and table in REGISTRIES:
        return tuple(REGISTRIES[table])
    return tuple(NAMES[key] if table == "train" and key in NAMES else _CHECKED.get(name, ()))


def _type(kind: Any) -> str:
    """The type of a key and its limits, in words."""
    if typing.get_origin(kind) is Annotated:
        base, *more = typing.get_args(kind)
        return ", ".join([_type(base), *_limits(more)])
    if typing.get_origin(kind) is not None:  # a list
        return f"list: {_type(typing.get_args(kind)[0])}"
    return _TYPES[kind]


def _limits(metadata: Iterable[Any]) -> list[str]:
    """What pydantic's fields say of the limits."""
    limits = [limit for field in metadata for limit in getattr(field, "metadata", ())]
    signs = {"gt": ">", "ge": "≥", "le": "≤"}
    return [
        f"{sign} {getattr(limit, name)}"
        for limit in limits
        for name, sign in signs.items()
        if hasattr(limit, name)
    ]


def _shown(value: Any) -> str:
    """A value as TOML has it."""
    if value in (MISSING, inspect.Parameter.empty):
        return _REQUIRED
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


# -- presets and methods --------------------------------------------------------------


@cache
def _recipes() -> dict[tuple[str, str], Tables]:
    """The tables of every preset with every method."""
    return {(p, m): layered(p, None, m, None) for p in presets() for m in methods()}


def _set_by(name: str, preset: str, method: str) -> str | None:
    table, _, key = name.partition(".")
    values = _recipes()[preset, method].get(table, {})
    return _shown(values[key]) if key in values else None


def _presets(name: str) -> dict[str, tuple[str, ...]]:
    return _by_value({preset: _set_by(name, preset, "citrus") for preset in presets()})


def _modes(name: str) -> dict[str, tuple[str, ...]]:
    values = {mode: changes[name] for mode, changes in MODES.items() if name in changes}
    return _by_value({mode: _shown(value) for mode, value in values.items()})


def _by_value(values: Mapping[str, str | None]) -> dict[str, tuple[str, ...]]:
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        if value is not None:
            names.setdefault(value, []).append(name)
    return {value: (", ".join(of),) for value, of in names.items()}


def _methods(name: str) -> dict[str, tuple[str, ...]]:
    if name == "loss.name":  # which the method is
        return {}
    methods_of: dict[tuple[str, tuple[str, ...]], list[str]] = {}  # by value and presets
    for method in methods():
        for value in dict.fromkeys(_set_by(name, preset, method) for preset in presets()):
            where = tuple(
                preset
                for preset in presets()
                if value == _set_by(name, preset, method) != _set_by(name, preset, "citrus")
            )
            if value is not None and where:
                methods_of.setdefault((value, where), []).append(method)
    found: dict[str, tuple[str, ...]] = {}
    for (value, where), names in methods_of.items():
        places = "" if len(where) == len(presets()) else f" with {', '.join(where)}"
        found[value] = (*found.get(value, ()), ", ".join(names) + places)
    return found
