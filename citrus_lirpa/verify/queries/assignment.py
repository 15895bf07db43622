"""The values of a satisfiable query's tensors, as the VNN-LIB 2.0 standard writes them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np

from ...errors import require
from ...formats.atomic import write_bytes
from ...formats.query import Declaration, Query
from ...formats.vnnlib import plain
from ...imports import import_optional
from .networks import DTYPES

_EXACT = Context(prec=400)


def as_text(query: Query, values: Mapping[str, list[Fraction]]) -> str:
    """Return the lines of an assignment (section 5.3.1): name, type and sides, then the numbers."""
    lines = []
    for tensor in query.declarations:
        sides = ",".join(map(str, tensor.shape))
        lines.append(f"{tensor.name} {tensor.dtype} [{sides}]")
        lines += (_number(value, tensor) for value in values[tensor.name])
    return "\n".join(lines)


def save(query: Query, values: Mapping[str, list[Fraction]], folder: Path) -> None:
    """Write each tensor as an ONNX TensorProto into ``NAME.pb`` of a folder; reals as float64.

    Raises:
        InputError: The folder cannot be one.
        CheckpointError: A file cannot be written.
    """
    require(not folder.exists() or folder.is_dir(), f"{folder} is not a folder; choose another")
    helper = import_optional("onnx.numpy_helper", "pip install 'citrus-lirpa[vnnlib]'")
    folder.mkdir(parents=True, exist_ok=True)
    for tensor in query.declarations:
        dtype = DTYPES[tensor.dtype] or np.float64
        array = np.array([float(v) for v in values[tensor.name]], dtype=dtype)
        stored = helper.from_array(array.reshape(tensor.shape), tensor.name)
        write_bytes(folder / f"{tensor.name}.pb", stored.SerializeToString())


def _number(value: Fraction, tensor: Declaration) -> str:
    """Return a number to the last digit, where it has one; floats as short as they can be read."""
    if dtype := DTYPES[tensor.dtype]:
        text = np.format_float_positional(dtype(float(value)), trim="0")
        return str(text)
    exact = _EXACT.divide(Decimal(value.numerator), Decimal(value.denominator))
    return plain(exact if Fraction(exact) == value else Decimal(float(value)))
