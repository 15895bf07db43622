"""Packages that not every installation has, and results as pandas data frames."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import DependencyError, reason

if TYPE_CHECKING:
    from pandas import DataFrame


def import_optional(module: str, fix: str) -> ModuleType:
    """Import a module that may be missing.

    Args:
        module: The full name of the module.
        fix: What to do where it cannot be imported, such as "pip install pandas".

    Returns:
        The module.

    Raises:
        DependencyError: The module is missing, or does not fit what is installed.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: it was built for another torch
        raise DependencyError(f"{module} cannot be imported ({reason(error)}): {fix}") from error


def import_torchvision() -> ModuleType:
    """Import torchvision, which is built for one version of torch.

    Returns:
        The package.

    Raises:
        DependencyError: It is missing, or was built for another torch.
    """
    return import_optional(
        "torchvision",
        f"install the version that matches torch {torch.__version__}; for torch 2.11.0: "
        "pip install torchvision==0.26.0",
    )


def to_frame(columns: Mapping[str, Sequence[Any] | Tensor]) -> DataFrame:
    """Make a data frame.

    Args:
        columns: Columns of equal length by name; tensors are (N,), on any device.

    Returns:
        One row for each entry of the columns.

    Raises:
        DependencyError: pandas is missing.
    """
    pandas = import_optional("pandas", "pip install pandas")
    return pandas.DataFrame(
        {
            name: list(column) if isinstance(column, Sequence) else column.detach().cpu().numpy()
            for name, column in columns.items()
        }
    )
