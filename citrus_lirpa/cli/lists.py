"""``citrus-lirpa presets`` and ``citrus-lirpa models``."""

from __future__ import annotations

from .output import Results, command, results


@command(
    "presets",
    ("what there is to train", "citrus-lirpa presets"),
    ("the names alone", "citrus-lirpa presets --json | jq -r '.presets[].name'"),
    ("one of them", "citrus-lirpa train --preset mnist-0.1 --method sabr"),
)
@results
def presets_command(**options) -> Results:
    """List the settings and the methods to train with.

    Each --preset holds a recipe for every --method.
    """
    from .actions import presets

    return presets.run(**options)


@command(
    "models",
    ("what there is", "citrus-lirpa models"),
    (
        "train one of the architectures",
        "citrus-lirpa train --preset mnist-0.1 --set model.name=convsmall",
    ),
    ("certify a trained network", "citrus-lirpa eval zoo:mnist-0.1-convsmall --limit 1000"),
)
@results
def models_command(**options) -> Results:
    """List the architectures to train, and the trained networks that come with the package."""
    from .actions import models

    return models.run(**options)
