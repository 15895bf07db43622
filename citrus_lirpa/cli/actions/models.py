"""``citrus-lirpa models``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

from ...models import MODELS
from ...reports import compare
from ...reports.tables import percent, radius
from ...training import checkpoint, zoo
from ..output import Results
from .common import print_names


def run() -> Results:
    """Do what ``citrus-lirpa models`` is for."""
    models = [_model(name) for name in MODELS]
    trained = [_trained(name) for name in zoo.names()]
    print_names("architectures", "--set model.name", [(m["name"], _options(m)) for m in models])
    click.echo()
    rows = [
        (
            n["name"],
            f"{n['method']} on {n['data']}, ε = {radius(n['eps'])}: standard accuracy "
            f"{percent(n['standard_accuracy'], ' %')}, UCert "
            f"{percent(n['certified_uap_accuracy'], ' %')}",
        )
        for n in trained
    ]
    print_names("trained networks", "wherever a network is read", rows)
    return {"models": models, "zoo": trained}


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
    record, path = zoo.evaluation(name), f"{zoo.PREFIX}{name}"
    return {
        "name": path,
        "method": compare.name_in_papers(checkpoint.load(Path(path))[0].loss)[0],
        "data": record["data"],
        "eps": record["eps"],
        "standard_accuracy": record["standard_accuracy"],
        "certified_uap_accuracy": record["uap_accuracy"]["certified"],
        "attacked_uap_accuracy": record["uap_accuracy"]["attacked"],
    }
