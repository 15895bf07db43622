"""Layers of configuration tables: what a preset, a file, a method and overrides say.

Nothing is checked here but names of tables, presets and methods; ``config`` checks the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, reduce
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import ConfigError, expect_known
from ..formats.schema import knows, options_of
from ..losses import LOSSES
from ..models import MODELS
from .toml import parse_toml, read_toml

Tables = dict[str, dict[str, Any]]

#: The tables of a configuration.
TABLES = ("data", "model", "loss", "train")
#: The functions that a table's ``name`` chooses from.
REGISTRIES: dict[str, Mapping[str, Any]] = {"model": MODELS, "loss": LOSSES}


def presets() -> list[str]:
    """List the names of the shipped presets."""
    folder = resources.files(__package__) / "presets"
    return sorted(p.name[: -len(".toml")] for p in folder.iterdir() if p.name.endswith(".toml"))


def methods() -> list[str]:
    """List the names of the training methods."""
    return list(dict.fromkeys([*LOSSES, *_package_toml("methods.toml")]))


def layered(preset: str | None, file: Path | None, method: str | None, loss: object) -> Tables:
    """Lay a file over the recipe of a method, and that over a preset.

    Args:
        preset: Name of a preset; the file may name another one.
        file: A TOML file.
        method: Name of a method, which goes before that of the file.
        loss: Name of a loss in the overrides, whose recipe is taken where no method is given.

    Returns:
        The tables, before any override.

    Raises:
        ConfigError: A name or a table is unknown, the file cannot be read or contradicts itself.
    """
    own: dict[str, Any] = {} if file is None else read_toml(file, "configuration file")
    preset, own_method = own.pop("preset", preset), own.pop("method", None)
    check_tables(own)
    base = {} if preset is None else _preset(preset)
    recipes = base.pop("methods", {})
    own_loss = own.get("loss", {}).get("name")
    recipe = _recipe(own_method, "citrus" if own_loss is None else own_loss, recipes)
    name = recipe["loss"]["name"]
    if own_method is not None and own_loss not in (None, name):
        raise ConfigError(
            f"the file names the method '{own_method}', but loss.name '{own_loss}'; give one of "
            "the two"
        )
    if preset is None:
        below = {} if own_method is None else recipe
        return stacked(below, own, {} if method is None else _recipe(method, None, recipes))
    if method is not None or loss is not None:
        recipe = _recipe(method, loss, recipes)
        # another loss loses the file's options that are not its own
        own = stacked({"loss": {"name": name}}, own, {"loss": {"name": recipe["loss"]["name"]}})
    return stacked(base, recipe, own)


def _recipe(method: object, loss: object, recipes: dict[str, Any]) -> Tables:
    """Tables of a method, or of the one named like a loss; ``recipes``: those of the preset."""
    if method is None:
        expect_known("loss.name", loss, LOSSES)
    name: Any = loss if method is None else method
    expect_known("method", name, methods())
    everywhere = _package_toml("methods.toml").get(name, {})
    return stacked({"loss": {"name": name}}, everywhere, recipes.get(name, {}))


def stacked(*layers: Tables) -> Tables:
    """Merge tables; values of later layers replace those of earlier ones.

    A new ``name`` of a model or loss drops the earlier options that only the old one knows.
    """
    return reduce(_merged, layers, {})


def _merged(tables: Tables, more: Tables) -> Tables:
    merged = {table: dict(values) for table, values in tables.items()}
    for table, values in more.items():
        base, registry = merged.get(table, {}), REGISTRIES.get(table, {})
        old: Any = base.get("name")
        new: Any = values.get("name")
        if knows(registry, old) and knows(registry, new):
            # options that neither knows stay, to be refused
            dropped = options_of(registry[old]).keys() - options_of(registry[new]).keys()
            base = {key: value for key, value in base.items() if key not in dropped}
        merged[table] = {**base, **values}
    return merged


def nested(changes: Mapping[str, Any]) -> Tables:
    """Make tables of values by ``table.key``."""
    tables: Tables = {}
    for key, value in changes.items():
        table, _, field = key.partition(".")
        tables.setdefault(table, {})[field] = value
    return tables


# -- reading ------------------------------------------------------------------------


def _preset(name: object) -> dict[str, Any]:
    expect_known("preset", name, presets())
    return _package_toml(f"presets/{name}.toml")


def _package_toml(name: str) -> dict[str, Any]:
    return dict(_parsed(name))  # from which tables may be taken; they are copied where they change


@cache
def _parsed(name: str) -> dict[str, Any]:
    return parse_toml((resources.files(__package__) / name).read_text("utf-8"), name)


def check_tables(tables: dict[str, Any]) -> None:
    """Raise ConfigError for an unknown table, and for a value in the place of one."""
    for table, values in tables.items():
        expect_known("table", table, TABLES)
        if not isinstance(values, dict):
            raise ConfigError(f"'{table}' is not a table; write [{table}]")
