"""ONNX files as bytes, by the rules of protobuf."""

from __future__ import annotations

import struct
from collections import defaultdict
from typing import Any

import numpy as np

from .network import Array, require

#: Bytes, and the field of other values, of the types of tensors that are read.
_TYPES = {1: ("<f4", 4), 7: ("<i8", 7), 11: ("<f8", 10)}


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value - (1 << 64 if value >> 63 else 0), at


def message(data: bytes) -> dict[int, list[Any]]:
    """Return the fields of a protobuf message by number: integers, or bytes."""
    fields: dict[int, list[Any]] = defaultdict(list)
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value: Any
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
            value, at = data[at : at + size], at + size
        fields[key >> 3].append(value)
    return fields


def integers(values: list[Any]) -> list[int]:
    """Return repeated integers, which may be packed."""
    found: list[int] = []
    for value in values:
        packed, at = (value, 0) if isinstance(value, bytes) else (b"", 0)
        found += [] if isinstance(value, bytes) else [value]
        while at < len(packed):
            number, at = _varint(packed, at)
            found.append(number)
    return found


def tensor(data: bytes) -> Array:
    """Return a tensor of floats or 64-bit integers."""
    f = message(data)
    require(f[2][0] in _TYPES, f"a tensor of type {f[2][0]} is not read; expected float or int64")
    code, field = _TYPES[f[2][0]]
    if f[9] or code != "<i8":
        values = np.frombuffer(b"".join(f[9] or f[field]), code)
    else:
        values = np.array(integers(f[7]), np.int64)
    return values.reshape(integers(f[1]))


def attributes(node: dict[int, list[Any]]) -> dict[str, Any]:
    """Return the attributes of a node by name."""
    given = {}
    for field in map(message, node[5]):
        value = tensor(field[5][0]) if field[5] else integers(field[8] or field[3])
        if field[2]:
            value = struct.unpack("<f", field[2][0])[0]
        given[field[1][0].decode()] = field[4][0] if field[4] else value
    return given
