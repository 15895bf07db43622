"""CITRUS: certified training against universal perturbations, on auto_LiRPA.

Import this package before auto_LiRPA: it makes auto_LiRPA work with current torch and
NumPy. ``Citrus`` is the loss for a training loop of your own; ``fit``, ``certify`` and
``certify_uap`` are what the command line calls. Torch is imported by the first name used.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from . import _hook
from ._version import __version__ as __version__

if TYPE_CHECKING:
    from ._api import *  # noqa: F403
    from ._api import __all__ as __all__


#: Modules that are known by a shorter name.
_MODULES = {
    "compare": "reports.compare",
    "config": "training.config",
    "pareto": "reports.pareto",
    "plots": "reports.plots",
    "runs": "training.setup",
    "zoo": "training.zoo",
}


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    if name in _MODULES or find_spec(f".{name}", __name__) is not None:  # all names are not needed
        return import_module(f".{_MODULES.get(name, name)}", __name__)
    return getattr(import_module("._api", __name__), name)


def __dir__() -> list[str]:
    return [*__getattr__("__all__"), "__version__"]


def _repair_auto_lirpa() -> None:
    import_module(".bounds.lirpa", __name__).load()


_hook.install(_repair_auto_lirpa)
