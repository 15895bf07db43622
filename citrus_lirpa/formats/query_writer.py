"""Robustness as VNN-LIB 2.0: of one image, and of a group under one perturbation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from torch import Tensor

from ..bounds.box import Box
from ..bounds.checks import Range
from .vnnlib import decimal, plain

_HEAD = "(vnnlib-version <2.0>)\n"
#: Differences of pixels are written as they are, to the last digit.
_EXACT = Context(prec=400)


def image_query(box: Box, label: int, classes: int) -> str:
    """Write the robustness of one image as a query about the network N in float32.

    A counterexample ("sat") is an input in the box, each side (C, H, W), for which another logit is
    at least the label's. Bounds are rounded outwards.
    """
    shape = (1, *box.lower.shape)
    lines = [_network("N", "X", "Y", "float32", shape, classes)]
    lines += _bounds("X", shape, box.lower, box.upper)
    lines.append(f"(assert {_broken('Y', label, classes)})")
    return _HEAD + "\n".join(lines) + "\n"


def uap_query(
    x: Tensor, box: Box, labels: Sequence[int], classes: int, *, least: int, clip: Range | None
) -> str:
    """Write whether one perturbation leaves fewer than ``least`` images of a group right.

    Each image has a copy of the network, N0, N1, .... The copies' inputs are tied: they differ
    as the images do, so that all have the same perturbation. "sat" means that it exists, "unsat"
    that at least ``least`` stay right under every one. The query is over real numbers, since ties
    hardly ever hold exactly in float32.

    Args:
        x: Images (k, C, H, W).
        box: What the first one may become, each side (C, H, W); rounded outwards.
        labels: Their classes.
        classes: The number of logits.
        least: m, from 1 to k.
        clip: The range that no pixel leaves; None for no limits.
    """
    count, shape = len(x), (1, *x.shape[1:])
    lines = [
        _network(f"N{i}", f"X{i}", f"Y{i}", "real", shape, classes, copy=i > 0)
        for i in range(count)
    ]
    lines += _bounds("X0", shape, box.lower, box.upper)
    places = _places(shape)
    pixels = x.flatten(1).double().tolist()
    for i in range(1, count):
        for place, first, other in zip(places, pixels[0], pixels[i], strict=True):
            apart = plain(_EXACT.subtract(Decimal(other), Decimal(first)))
            lines.append(f"(assert (== X{i}{place} (+ X0{place} {apart})))")
    if clip is not None:
        low, high = (x.new_full(x.shape[1:], float(end)) for end in clip)
        lines += (line for i in range(count) for line in _bounds(f"X{i}", shape, low, high))
    broken = [_broken(f"Y{i}", label, classes) for i, label in enumerate(labels)]
    sets = itertools.combinations(range(count), count - least + 1)
    choices = [_joined("and", [broken[i] for i in chosen]) for chosen in sets]
    lines.append(f"(assert {_joined('or', choices)})")
    return _HEAD + "\n".join(lines) + "\n"


def _network(
    name: str,
    taken: str,
    given: str,
    dtype: str,
    shape: Sequence[int],
    classes: int,
    *,
    copy: bool = False,
) -> str:
    sides = ",".join(map(str, shape))
    return (
        f"(declare-network {name}\n{'    (equal-to N0)' + chr(10) if copy else ''}"
        f"    (declare-input {taken} {dtype} [{sides}])\n"
        f"    (declare-output {given} {dtype} [1,{classes}])\n)"
    )


def _bounds(name: str, shape: Sequence[int], lower: Tensor, upper: Tensor) -> Iterator[str]:
    ends = zip(_places(shape), lower.flatten().tolist(), upper.flatten().tolist(), strict=True)
    for place, low, high in ends:
        yield f"(assert (>= {name}{place} {decimal(low, ROUND_FLOOR)}))"
        yield f"(assert (<= {name}{place} {decimal(high, ROUND_CEILING)}))"


def _places(shape: Sequence[int]) -> list[str]:
    return [f"[{','.join(map(str, at))}]" for at in itertools.product(*map(range, shape))]


def _broken(logits: str, label: int, classes: int) -> str:
    others = (k for k in range(classes) if k != label)
    return _joined("or", [f"(>= {logits}[0,{k}] {logits}[0,{label}])" for k in others])


def _joined(connective: str, parts: Sequence[str]) -> str:
    """Return parts under a connective, which the standard has for two and more."""
    return parts[0] if len(parts) == 1 else f"({connective} {' '.join(parts)})"
