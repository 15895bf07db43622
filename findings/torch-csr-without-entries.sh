#!/usr/bin/env bash
# torch refuses a sparse CSR matrix without entries whose arrays come from NumPy, where it checks invariants.
#
# torch.from_numpy gives a tensor of no numbers a stride of 0, and torch counts it as contiguous. The checks of
# torch.sparse_csr_tensor(..., check_invariants=True) want a stride of 1, whatever the size, and raise. So a matrix
# of SciPy passes or not by whether anything in it happens to be other than zero; without the checks both work.
# A clone with memory_format=torch.contiguous_format has a stride of 1, a plain .contiguous() has not.
#
# Seen with torch 2.11.0, SciPy 1.17.1, NumPy 2.4.6 on Linux x86-64, Python 3.11:
#   one entry: accepted, strides 1 1
#   no entry: RuntimeError: expected col_indices to be a contiguous tensor per batch, strides 0 0
#   no entry, contiguous: RuntimeError: expected col_indices to be a contiguous tensor per batch, strides 0 0
#   no entry, cloned: accepted, strides 1 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 scipy==1.17.1 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
from scipy import sparse


def outcome(what, matrix, prepare=lambda tensor: tensor):
    """Whether torch takes a matrix of SciPy, with the strides of its columns and entries."""
    arrays = (matrix.indptr, matrix.indices, matrix.data)
    ends, columns, entries = (prepare(torch.from_numpy(part)) for part in arrays)
    try:
        torch.sparse_csr_tensor(ends, columns, entries, size=matrix.shape, check_invariants=True)
        found = "accepted"
    except RuntimeError as error:
        found = f"RuntimeError: {error}"
    print(f"{what}: {found}, strides {columns.stride(0)} {entries.stride(0)}")
    return found == "accepted"


one = sparse.csr_array(([1.0], ([0], [2])), shape=(2, 4))
none = sparse.csr_array((2, 4))
same = torch.contiguous_format
found = [
    outcome("one entry", one),
    outcome("no entry", none),
    outcome("no entry, contiguous", none, lambda tensor: tensor.contiguous()),
    outcome("no entry, cloned", none, lambda tensor: tensor.clone(memory_format=same)),
]
sys.exit(found != [True, False, False, True])
PY
