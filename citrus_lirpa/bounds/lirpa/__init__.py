"""Every difference between versions of auto_LiRPA, torch and NumPy, in one place.

auto_LiRPA 0.3 (PyPI) and 0.7 (upstream's repository) were written for older torch.
``load`` imports whichever is found, without its side effects, and repairs what the
installed torch and NumPy broke; ``parsing`` is held while a ``BoundedModule`` is built.
Each repair is applied only where the name or the behaviour is missing.
"""

from .loading import INSTALL_HINT, SUPPORTED_LIRPA, TESTED_TORCH, load
from .options import bound_kwargs, bound_options, repair_options
from .parser import Origins, origins, parsing

__all__ = [
    "INSTALL_HINT", "Origins", "SUPPORTED_LIRPA", "TESTED_TORCH", "bound_kwargs", "bound_options",
    "load", "origins", "parsing", "repair_options",
]  # fmt: skip
