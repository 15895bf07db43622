"""Names of arguments and options of auto_LiRPA, which differ between its versions."""

from __future__ import annotations

from typing import Any

from .loading import load

_LEGACY_NAMES = {  # 0.7 -> 0.3
    "interm_bounds": "intermediate_layer_bounds",
    "activation_bound_option": "relu",
}
# Sparse alpha always: 0.3's dense alpha crashes where over 90 % of a layer is unstable.
_LEGACY_OPTIONS = {"minimum_sparsity": 1.0}


def bound_options(*, conv_mode: str = "patches", alpha_iterations: int = 20) -> dict[str, Any]:
    """Return ``bound_opts`` for the constructor of the loaded ``BoundedModule``."""
    options = bound_kwargs(activation_bound_option="adaptive")
    options["conv_mode"] = conv_mode
    options["optimize_bound_args"] = {"iteration": alpha_iterations, "lr_alpha": 0.25}
    if load().legacy:
        options.update(_LEGACY_OPTIONS)
    return options


def bound_kwargs(**kwargs: Any) -> dict[str, Any]:
    """Translate auto_LiRPA 0.7's argument names to those of the loaded version."""
    if not load().legacy:
        return kwargs
    return {_LEGACY_NAMES.get(name, name): value for name, value in kwargs.items()}


def repair_options(bounded: Any) -> None:
    """Give a user's own ``BoundedModule`` the options without which α-CROWN crashes on 0.3."""
    if load().legacy:
        bounded.bound_opts.update(_LEGACY_OPTIONS)
