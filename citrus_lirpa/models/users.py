"""Users' own networks: a function or class in their code, or an architecture of CTRAIN."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, InputError, foreign, require
from ..imports import check_permitted, load_code
from . import ctrain
from .layers import Behind, Shape, leading_normalise


def own(
    shape: Shape,
    classes: int,
    *,
    source: str = "",
    sha256: str = "",
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> nn.Module:
    """Build a user's own network, of a function or class in a file (``--model``).

    Args:
        shape: (C, H, W) of the images.
        classes: The number of logits.
        source: ``file.py:name`` or ``package.module:name``. It is called without arguments, but
            for ``shape``, ``classes`` or ``num_classes`` where it has parameters of these names.
        sha256: SHA-256 of the file.
        mean: Mean of each channel, to normalise pixels by before they reach the network.
        std: Standard deviation of each channel.

    Raises:
        ConfigError: It needs other arguments, fails, or returns no ``nn.Module``.
        InputError: It does not map images of this shape to ``classes`` logits.
    """
    require(source, "model.source is missing; name your network by --model FILE.py:NAME",
            ConfigError)  # fmt: skip
    check_permitted(source, sha256)
    make = ctrain.architecture(source) if ctrain.is_ctrain(source) else load_code(source)
    model = _called(make, source, {"shape": shape, "classes": classes, "num_classes": classes})
    if shape[:2] == (1, 1):  # of a table, which such networks take as (N, d)
        model = Behind(nn.Flatten(), model)
    _check_logits(model, source, shape, classes)
    return Behind(leading_normalise(mean, std, shape), model) if mean or std else model


def _called(make: Callable[..., Any], source: str, known: dict[str, Any]) -> nn.Module:
    """Call a user's function or class with those ``known`` arguments that it takes."""
    parameters = inspect.signature(make).parameters
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and name not in known
    ]
    require(
        not needed,
        f"{source} needs the argument {needed[0] if needed else ''}; name a function that takes "
        "none, or shape and classes, and returns the network",
        ConfigError,
    )
    with foreign(ConfigError, f"{source} fails"):
        model = make(**{name: value for name, value in known.items() if name in parameters})
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{source} returns a {type(model).__name__}; expected a torch.nn.Module")
    return model


@torch.no_grad()
def _check_logits(model: nn.Module, source: str, shape: Shape, classes: int) -> None:
    """Raise InputError unless a network maps images to ``classes`` logits."""
    mode = model.training
    other = {p.dtype for p in model.parameters()} - {torch.float32}
    fix = (
        f"images are float32 and weights {other.pop()}; make them alike by .float()"
        if other
        else ""
    )
    try:
        with foreign(InputError, f"{source} does not take images of {shape}", fix):
            logits = model.eval()(torch.zeros(2, *shape))
    finally:
        model.train(mode)
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    require(found == (2, classes), f"{source} returns {found} for two images; the data has "
            f"{classes} classes: expected (2, {classes}); if it has images of some of the classes "
            "alone, name all in its class_names")  # fmt: skip
