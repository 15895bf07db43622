"""Results as pandas data frames, for those who work with them; pandas is optional."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import DependencyError

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor


def to_frame(columns: Mapping[str, Sequence[Any] | Tensor]) -> DataFrame:
    """A data frame of columns of equal length; those that are tensors (N,) on any device.

    Raises DependencyError where pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise DependencyError(f"pandas is not installed ({error}): pip install pandas") from error
    return pandas.DataFrame(
        {
            name: list(column) if isinstance(column, Sequence) else column.detach().cpu().numpy()
            for name, column in columns.items()
        }
    )
