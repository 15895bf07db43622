"""``citrus-lirpa presets`` and ``citrus-lirpa models``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import click

from ..models import MODELS
from ..reports import compare
from ..reports.tables import percent, radius, table
from ..training import config, zoo
from .output import Results, examples, results

Row = tuple[str, str]


@click.command(
    "presets",
    epilog=examples(
        ("what there is to train", "citrus-lirpa presets"),
        ("the names alone", "citrus-lirpa presets --json | jq -r '.presets[].name'"),
        ("one of them", "citrus-lirpa train --preset mnist-0.1 --method sabr"),
    ),
)
@results
def presets_command() -> Results:
    """List the settings and the methods to train with.

    Each --preset holds a recipe for every --method.
    """
    presets = [_preset(name) for name in config.presets()]
    methods = [_method(name) for name in config.methods()]
    _print("presets", "--preset", [(p["name"], _in_words(p)) for p in presets])
    click.echo()
    _print(
        "methods",
        "--method",
        [
            (m["name"], ", ".join(part for part in (m["title"], m["source"]) if part != "-"))
            for m in methods
        ],
    )
    return {"presets": presets, "methods": methods}


@click.command(
    "models",
    epilog=examples(
        ("what there is", "citrus-lirpa models"),
        (
            "train one of the architectures",
            "citrus-lirpa train --preset mnist-0.1 --set model.name=convsmall",
        ),
        ("certify a trained network", "citrus-lirpa eval zoo:mnist-0.1-convsmall --limit 1000"),
    ),
)
@results
def models_command() -> Results:
    """List the architectures to train, and the trained networks that come with the package."""
    models = [_model(name) for name in MODELS]
    trained = [_trained(name) for name in zoo.names()]
    _print("architectures", "--set model.name", [(m["name"], _options(m)) for m in models])
    click.echo()
    rows = [
        (
            n["name"],
            f"{n['data']}, ε = {radius(n['eps'])}: standard accuracy "
            f"{percent(n['standard_accuracy'], ' %')}, UCert "
            f"{percent(n['certified_uap_accuracy'], ' %')}",
        )
        for n in trained
    ]
    _print("trained networks", "wherever a run is expected", rows)
    return {"models": models, "zoo": trained}


def _preset(name: str) -> dict[str, Any]:
    settings = config.resolve(preset=name)
    return {
        "name": name,
        "data": settings.data.name,
        "eps": settings.train.eps,
        "model": settings.model["name"],
        "epochs": settings.train.epochs,
        "batch_size": settings.train.batch_size,
    }


def _in_words(preset: dict[str, Any]) -> str:
    return (
        f"{preset['data']}, ε = {radius(preset['eps'])}, {preset['model']}, "
        f"{preset['epochs']} epochs, batch {preset['batch_size']}"
    )


def _method(name: str) -> dict[str, str]:
    title, source = compare.name_in_papers(config.resolve(preset="digits", method=name).loss)
    return {"name": name, "title": title, "source": source}


def _model(name: str) -> dict[str, Any]:
    """Describe an architecture by the docstring and the options of the function that builds it."""
    function = MODELS[name]
    parameters = inspect.signature(function).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return {
        "name": name,
        "summary": (inspect.getdoc(function) or "").partition("\n")[0].replace("`", "").rstrip("."),
        "options": options,
    }


def _options(model: dict[str, Any]) -> str:
    names = ", ".join(f"model.{name}" for name in model["options"])
    return f"{model['summary']}; options: {names or 'none'}"


def _trained(name: str) -> dict[str, Any]:
    record = zoo.evaluation(name)
    return {
        "name": f"{zoo.PREFIX}{name}",
        "data": record["data"],
        "eps": record["eps"],
        "standard_accuracy": record["standard_accuracy"],
        "certified_uap_accuracy": record["uap_accuracy"]["certified"],
        "attacked_uap_accuracy": record["uap_accuracy"]["attacked"],
    }


def _print(title: str, option: str, rows: Iterable[Row]) -> None:
    bold = [(f"  {click.style(name, bold=True)}", line) for name, line in rows]
    click.echo(f"{title} ({option}):\n{table(bold, ('<', '<'))}")
