"""CITRUS: certified training against universal perturbations, on auto_LiRPA.

Import this package before auto_LiRPA: it makes auto_LiRPA work with current torch and
NumPy. ``Citrus`` is the loss for a training loop of your own; ``fit``, ``certify`` and
``certify_uap`` are what the command line calls. Names are imported when they are first
used, and torch with them.
"""

import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__
from .imports import repair_on_import

if TYPE_CHECKING:  # the same names for editors and type checkers
    from .attacks import PGD as PGD
    from .attacks import GroupAttack as GroupAttack
    from .attacks import SgdUap as SgdUap
    from .attacks import UapResult as UapResult
    from .attacks import try_uap as try_uap
    from .bounds.box import Box as Box
    from .bounds.margins import robust_cross_entropy as robust_cross_entropy
    from .bounds.net import METHODS as METHODS
    from .bounds.net import BoundedNet as BoundedNet
    from .errors import CitrusError as CitrusError
    from .losses import Adversarial as Adversarial
    from .losses import CcIbp as CcIbp
    from .losses import Citrus as Citrus
    from .losses import Colt as Colt
    from .losses import CrossEntropy as CrossEntropy
    from .losses import CrownIbp as CrownIbp
    from .losses import ExpIbp as ExpIbp
    from .losses import Gaussian as Gaussian
    from .losses import Ibp as Ibp
    from .losses import LossTerms as LossTerms
    from .losses import MtlIbp as MtlIbp
    from .losses import Sabr as Sabr
    from .losses import SmoothAdv as SmoothAdv
    from .losses import Taps as Taps
    from .losses import UapGame as UapGame
    from .losses import Uat as Uat
    from .losses.cross_input import Groups as Groups
    from .losses.cross_input import Shifts as Shifts
    from .losses.cross_input import cross_input_boxes as cross_input_boxes
    from .training.initialisation import shi_initialise as shi_initialise
    from .training.loop import History as History
    from .training.loop import fit as fit
    from .training.regularisers import shi_regulariser as shi_regulariser
    from .verify import Certificates as Certificates
    from .verify import Evaluation as Evaluation
    from .verify import Protocol as Protocol
    from .verify import Smoothed as Smoothed
    from .verify import Smoothing as Smoothing
    from .verify import UapBounds as UapBounds
    from .verify import certify as certify
    from .verify import certify_uap as certify_uap
    from .verify import evaluate as evaluate
    from .verify import smooth as smooth

#: The public names of each module.
_NAMES = {
    "attacks": ("PGD", "GroupAttack", "SgdUap", "UapResult", "try_uap"),
    "bounds.box": ("Box",),
    "bounds.margins": ("robust_cross_entropy",),
    "bounds.net": ("METHODS", "BoundedNet"),
    "errors": ("CitrusError",),
    "losses": (
        *("Adversarial", "CcIbp", "Citrus", "Colt", "CrossEntropy", "CrownIbp", "ExpIbp"),
        *("Gaussian", "Ibp", "LossTerms", "MtlIbp", "Sabr", "SmoothAdv", "Taps", "UapGame", "Uat"),
    ),
    "losses.cross_input": ("Groups", "Shifts", "cross_input_boxes"),
    "training.initialisation": ("shi_initialise",),
    "training.loop": ("History", "fit"),
    "training.regularisers": ("shi_regulariser",),
    "verify": (
        *("Certificates", "Evaluation", "Protocol", "Smoothed", "Smoothing", "UapBounds"),
        *("certify", "certify_uap", "evaluate", "smooth"),
    ),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

#: Modules that are also known by a shorter name.
_SHORT = {
    "compare": "reports.compare",
    "config": "training.config",
    "pareto": "reports.pareto",
    "plots": "reports.plots",
    "zoo": "training.zoo",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    elif name in _SHORT:
        value = import_module(f".{_SHORT[name]}", __name__)
    elif not name.startswith("__") and find_spec(f".{name}", __name__) is not None:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _keep(old: str, new: str) -> ModuleType:
    """Keep ``old`` importable for one release: a module with the names of ``new``."""
    path = f"{__name__}.{old}"

    def forward(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module '{path}' has no attribute '{name}'")
        warnings.warn(f"{path} is {__name__}.{new} now", DeprecationWarning, stacklevel=2)
        return getattr(import_module(f".{new}", __name__), name)

    module = ModuleType(path, f"Deprecated: {__name__}.{new}.")
    module.__getattr__ = forward  # type: ignore[method-assign]
    sys.modules[path] = module
    return module


onnx_files = _keep("onnx_files", "formats.onnx")
schedules = _keep("schedules", "training.schedules")


def _repair_auto_lirpa() -> None:
    import_module(".bounds.lirpa", __name__).load()


repair_on_import(_repair_auto_lirpa)
