"""What arguments may be; a refusal is one line with the value, what was expected and the fix."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, expect, expect_known, shown

#: A number, or a tensor broadcastable to the images (one value per channel as (C, 1, 1)).
Scalar = float | Tensor
#: Lowest and highest value an input may have.
Range = tuple[Scalar, Scalar]

#: The largest usable number: larger ones overflow as an integer or in float32.
_LARGEST = 2.0**62
#: The largest number of steps, images and the like; larger ones are mistakes.
_MOST = 2**31 - 1
_KNOWN: ContextVar[bool] = ContextVar("known", default=False)


@contextlib.contextmanager
def values_known() -> Iterator[None]:
    """Skip, inside the block, checks of values on a GPU, for which the host would have to wait.

    It is for callers that know the values, as the training loop, which has checked all its data.
    Shapes, types and devices, and values on the CPU, are still checked.
    """
    token = _KNOWN.set(True)
    try:
        yield
    finally:
        _KNOWN.reset(token)


def are_values_known(x: object) -> bool:
    """Return whether the values of ``x`` need no check: see ``values_known``."""
    return isinstance(x, Tensor) and x.is_cuda and _KNOWN.get()


def is_positive(value: Scalar) -> bool:
    """Return whether a number is positive; tensors count as positive, as asking a GPU waits."""
    return isinstance(value, Tensor) or value > 0


def is_number(value: object) -> bool:
    """Return whether ``value`` is a finite real number; True and False are not."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    number: Any = value
    return bool(-_LARGEST <= number <= _LARGEST)


def is_count(value: object, least: int = 1, most: int = _MOST) -> bool:
    """Return whether ``value`` is a whole number from ``least`` to ``most``."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        return False
    number: Any = value
    return bool(least <= number <= most)


def check_count(value: object, name: str, least: int = 1, most: int = _MOST) -> None:
    """Raise InputError unless ``value`` is a whole number from ``least`` to ``most``."""
    limits = f"at least {least}" if most == _MOST else f"{least} to {most}"
    expect(is_count(value, least, most), name, value, f"{limits}, a whole number")


def check_positive(value: Any, name: str, expected: str = "a number > 0") -> None:
    """Raise InputError unless ``value`` is a number > 0."""
    expect(is_number(value) and value > 0, name, value, expected)


def check_name(value: object, kind: str, known: Iterable[str]) -> None:
    """Raise InputError unless ``value`` is one of the ``known`` names."""
    expect_known(kind, value, known, InputError)


def check_radius(radius: Scalar, name: str = "radius") -> Scalar:
    """Return a radius as a float or tensor; raise InputError unless it is finite and >= 0."""
    if isinstance(radius, np.ndarray) and radius.dtype.kind in "fiu":
        radius = torch.from_numpy(radius)
    known = are_values_known(radius)
    if not (_has_values(radius) and (known or _all_within(radius, 0, _LARGEST))):
        expected = "a finite number >= 0, in pixel units, or a tensor of them"
        raise InputError(f"{name} is {shown(radius)}; expected {expected}")
    return radius if isinstance(radius, Tensor) else float(radius)


def check_seconds(limit: float, name: str = "time limit") -> None:
    """Raise InputError unless a time limit is a finite number of seconds >= 0."""
    usable = is_number(limit) and limit >= 0
    expect(usable, name, limit, "a finite number of seconds >= 0")


def check_range(limits: Range | None) -> None:
    """Raise InputError unless a valid range is None or a pair of ends, the lower one first."""
    if limits is None:
        return
    pair = isinstance(limits, (tuple, list)) and len(limits) == 2
    if pair and all(_has_values(end) for end in limits):
        low, high = (torch.as_tensor(end, dtype=torch.float64).cpu() for end in limits)
        if fits(low, high) or fits(high, low):
            ends = torch.cat([low.flatten(), high.flatten()])
            usable = ends.isinf() | (ends.abs() <= _LARGEST)
            if bool((low <= high).all()) and bool(usable.all()):
                return
    given = f"({', '.join(map(shown, limits))})" if pair else shown(limits)
    raise InputError(
        f"clip is {given}; expected None or (lowest, highest), numbers or tensors "
        "(C, 1, 1), with lowest <= highest"
    )


def check_fits(value: Scalar | Range | None, x: Tensor, name: str) -> None:
    """Raise InputError unless a tensor, or each in a pair, broadcasts to the inputs ``x``.

    One value a channel must have the shape (C, 1, 1): (C,) would go to the columns of images.
    """
    for part in value if isinstance(value, (tuple, list)) else (value,):
        if not isinstance(part, Tensor):
            continue
        expect(
            fits(part, x) and not (part.ndim == 1 and len(part) > 1 and x.ndim > 2),
            name,
            part,
            f"a number or a tensor that broadcasts to the inputs, {tuple(x.shape)}: one value a "
            "channel has the shape (C, 1, 1)",
        )


def check_within(x: Tensor, clip: Range | None) -> None:
    """Raise InputError unless inputs are numbers in their valid range, up to rounding."""
    if clip is None or not len(x) or are_values_known(x):
        return
    lower, upper = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in clip)
    least = torch.minimum((x - lower).amin(), (upper - x).amin())  # NaN where x is no number
    if not bool(least >= -1e-5):
        raise InputError(
            f"images range from {float(x.detach().min()):.4g} to "
            f"{float(x.detach().max()):.4g}, outside the valid range "
            f"{shown(clip[0])} to {shown(clip[1])}; pass pixels in [0, 1], or clip=(lowest, "
            "highest) of your normalised data"
        )


def fits(small: Tensor, large: Tensor) -> bool:
    """Return whether ``small`` broadcasts to the shape of ``large``."""
    padded = (1,) * (large.ndim - small.ndim) + tuple(small.shape)
    return len(padded) == large.ndim and all(
        a in (1, b) for a, b in zip(padded, large.shape, strict=True)
    )


def check_tensor(x: Any, name: str) -> None:
    """Raise InputError unless ``x`` is a dense tensor of floating-point values."""
    if not isinstance(x, Tensor):
        raise InputError(f"{name} is a {type(x).__name__}; expected a torch.Tensor")
    if not x.is_floating_point() or x.layout != torch.strided or x.is_meta:
        raise InputError(f"{name} is {kind_of(x)}; expected a dense tensor of torch.float32")


def check_labels(y: Any, classes: int) -> None:
    """Raise InputError unless labels are int64 (N,) in [0, classes)."""
    if not isinstance(y, Tensor):
        raise InputError(f"labels are a {type(y).__name__}; expected a torch.Tensor")
    if y.dtype != torch.int64 or y.ndim != 1 or y.is_meta:
        where = " on meta" if y.is_meta else ""
        raise InputError(
            f"labels are {y.dtype} of shape {tuple(y.shape)}{where}; expected torch.int64 of "
            "shape (N,): use y.long()"
        )
    if not len(y) or are_values_known(y):
        return
    least, most = torch.stack(torch.aminmax(y)).tolist()
    if not 0 <= least <= most < classes:
        raise InputError(
            f"labels range from {least} to {most}; "
            f"expected 0 to {classes - 1} for {classes} classes"
        )


def kind_of(x: Tensor) -> str:
    """Return shape, type and device of a tensor in words."""
    layout = "" if x.layout == torch.strided else f", {x.layout}"
    return f"a tensor {tuple(x.shape)} of {x.dtype} on {x.device}{layout}"


def _has_values(value: object) -> bool:
    """Whether ``value`` is a number, or a dense tensor of real numbers, at least one."""
    if not isinstance(value, Tensor):
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    dense = value.layout == torch.strided and not value.is_meta
    return dense and value.numel() > 0 and not value.is_complex() and value.dtype != torch.bool


def _all_within(value: Scalar, low: float, high: float) -> bool:
    """Whether low <= value <= high everywhere; NaN is nowhere."""
    inside = (value >= low) & (value <= high) if isinstance(value, Tensor) else low <= value <= high
    return bool(torch.as_tensor(inside).all())
