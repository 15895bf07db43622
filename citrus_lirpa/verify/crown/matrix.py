"""Matrices that are multiplied with few or many columns, sparse or dense, whichever is faster."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

#: Matrices with a smaller share of entries are kept sparse.
_SPARSE = 0.25
#: Products of a dense matrix with fewer columns are computed as rows: MKL takes up to twenty times
#: as long otherwise.
_FEW_COLUMNS = {torch.float32: 16, torch.float64: 32}


class Matrix:
    """A matrix (m, n) and its transpose, sparse or dense, to be multiplied with columns.

    Args:
        plain: The matrix.
        transposed: Its transpose.
    """

    def __init__(self, plain: Tensor, transposed: Tensor):
        self.plain, self.transposed = plain, transposed

    @staticmethod
    def of(array: Any, device: torch.device) -> Matrix:
        """Return a sparse array of SciPy on a device, dense where much of it is not zero."""
        if array.nnz >= _SPARSE * array.shape[0] * array.shape[1]:
            dense = torch.from_numpy(array.toarray()).to(device)
            return Matrix(dense, dense.t())
        return Matrix(_compressed(array, device), _compressed(array.T.tocsr(), device))

    def add_to(self, result: Tensor, values: Tensor) -> None:
        """Add the product with values (n, D) to a result (m, D)."""
        _add_product(result, self.plain, values)

    def add_transposed_to(self, result: Tensor, values: Tensor) -> None:
        """Add the product of the transpose with values (m, D) to a result (n, D)."""
        _add_product(result, self.transposed, values)

    def to(self, dtype: torch.dtype) -> Matrix:
        """Return it in another precision."""
        plain = self.plain.to(dtype)
        dense = plain.layout == torch.strided
        return Matrix(plain, plain.t() if dense else self.transposed.to(dtype))


def _add_product(result: Tensor, matrix: Tensor, values: Tensor) -> None:
    few = 1 < values.shape[1] < _FEW_COLUMNS[values.dtype]
    if few and matrix.layout == torch.strided:
        result += (values.t().contiguous() @ matrix.t()).t()
    else:
        result.addmm_(matrix, values)


def _compressed(array: Any, device: torch.device) -> Tensor:
    """Return a sparse array of SciPy, in compressed rows, as a tensor."""
    parts = (array.indptr.astype("int32"), array.indices.astype("int32"), array.data)
    # of no entries, a tensor that is not cloned has a step of 0, which is refused
    ends, places, entries = (
        torch.from_numpy(part).clone(memory_format=torch.contiguous_format) for part in parts
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)")  # once a process
        compressed = torch.sparse_csr_tensor(
            *(ends, places, entries), size=array.shape, check_invariants=True
        )
    return compressed.to(device)
