"""Loading auto_LiRPA: which versions are supported, and which repairs each one needs."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import re
import types
from dataclasses import dataclass

import torch

from ...errors import DependencyError
from .importing import import_quietly
from .nodes import keep_known_intervals, keep_overflow_apart, pool_in_order, repair_nodes
from .operators import register
from .repairs import repair

INSTALL_HINT = "pip install --no-deps auto-LiRPA==0.3"
SUPPORTED_LIRPA = ("0.3", "0.7")
TESTED_TORCH = ("2.5", "2.15")

_DISTRIBUTIONS = {"yaml": "pyyaml"}  # import name -> name on PyPI, where they differ


@dataclass(frozen=True)
class Lirpa:
    """The loaded auto_LiRPA; ``legacy`` means 0.3, with its older argument names."""

    version: str
    legacy: bool
    BoundedModule: type
    BoundedTensor: type
    PerturbationLpNorm: type


@functools.cache
def load() -> Lirpa:
    """Import auto_LiRPA quietly and repair it for the torch and NumPy at hand.

    Raises:
        DependencyError: Something is missing, or its version is not supported.
    """
    if _release(torch.__version__) < _release(TESTED_TORCH[0]):
        raise DependencyError(
            f"torch {torch.__version__} found, {TESTED_TORCH[0]} or newer needed: "
            f'pip install "torch>={TESTED_TORCH[0]}"'
        )
    try:
        package = import_quietly()
    except ImportError as error:
        raise DependencyError(_import_advice(error)) from error
    version = _version(package)
    if f"{_release(version)[0]}.{_release(version)[1]}" not in SUPPORTED_LIRPA:
        raise DependencyError(
            f"auto_LiRPA {version} found, {'.x or '.join(SUPPORTED_LIRPA)}.x needed: {INSTALL_HINT}"
        )
    operators = importlib.import_module("auto_LiRPA.bound_ops")
    repair(package, operators)
    repair_nodes(operators)
    keep_overflow_apart(operators, package.BoundedModule)
    register(operators, importlib.import_module("auto_LiRPA.bound_op_map").bound_op_map)
    if _release(version) < (0, 4):
        keep_known_intervals(package.BoundedModule)
        pool_in_order(operators.BoundAveragePool)
    return Lirpa(
        version=version,
        legacy=_release(version) < (0, 4),
        BoundedModule=package.BoundedModule,
        BoundedTensor=package.BoundedTensor,
        PerturbationLpNorm=package.PerturbationLpNorm,
    )


def _release(version: str) -> tuple[int, int]:
    """Return (major, minor) of a version string; local and pre-release parts ignored."""
    numbers = [int(digits) for digits in re.findall(r"\d+", version)[:2]]
    return (*numbers, 0, 0)[:2]


def _version(package: types.ModuleType) -> str:
    """Read the module's own version: on PYTHONPATH the metadata may be another's."""
    if hasattr(package, "__version__"):
        return package.__version__
    try:
        return importlib.metadata.version("auto-LiRPA")
    except importlib.metadata.PackageNotFoundError:
        return "(unknown)"


def _import_advice(error: ImportError) -> str:
    missing = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or not missing:
        return f"auto_LiRPA cannot be imported ({error}); install a working one: {INSTALL_HINT}"
    if missing == "auto_LiRPA":
        return f"auto_LiRPA is not installed: {INSTALL_HINT}"
    distribution = _DISTRIBUTIONS.get(missing, missing)
    return f"auto_LiRPA needs {error.name}, which is missing: pip install {distribution}"
