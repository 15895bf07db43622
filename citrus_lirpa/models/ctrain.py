"""The architectures of CTRAIN, by the names of its published networks: ``ctrain:NAME``."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from ..errors import expect_known
from ..imports import import_optional

_PREFIX = "ctrain:"
#: The names in the manifest of its published fronts: class, and width.
_PUBLISHED = {
    "cnn3": ("CNN3_Mao", 64),
    "cnn5": ("CNN5_Mao", 64),
    "cnn7": ("CNN7_Shi", 64),
    "narrow_cnn7": ("CNN7_Shi", 32),
    "wide_cnn7": ("CNN7_Shi", 128),
    "cnn9": ("CNN9_Mao", 64),
    "cnn11": ("CNN11_Mao", 64),
}
#: Mean and standard deviation that its loaders normalise pixels of a data set by.
PIXELS = {
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "tinyimagenet": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
}


def is_ctrain(source: str) -> bool:
    """Return whether a name of code is one of CTRAIN's architectures: ``ctrain:NAME``."""
    return source.startswith(_PREFIX)


def architecture(source: str) -> Callable[..., Any]:
    """Return what builds an architecture of the installed CTRAIN, from a shape and classes.

    Raises:
        DependencyError: CTRAIN is missing.
        ConfigError: It has no such architecture.
    """
    name = source.removeprefix(_PREFIX)
    package = import_optional("CTRAIN.model_definitions", "pip install --no-deps CTRAIN")
    known = {key: value for key, value in vars(package).items() if isinstance(value, type)}
    expect_known("architecture of CTRAIN", name, [*known, *_PUBLISHED])
    kind, width = _PUBLISHED.get(name, (name, None))
    taken = signature(known[kind]).parameters

    def build(shape: tuple[int, int, int], classes: int) -> Any:
        given: dict[str, Any] = {"in_shape": shape, "n_classes": classes}
        if width is not None:
            given["width"] = width
        if "dataset" in taken:  # which says how large the images are
            given["dataset"] = "mnist" if shape[1:] == (28, 28) else "cifar10"
        return known[kind](**given)

    return build
