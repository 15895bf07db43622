"""The check of a batch, made once at each public door of losses, attacks and verification."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.arrays import read_pairs
from ..errors import InputError, require
from .checks import are_values_known, check_labels, check_tensor, kind_of
from .net import BoundedNet, as_bounded_net

Result = TypeVar("Result")
#: Types of labels.
_WHOLE = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


def outside_inference(function: Callable[..., Result]) -> Callable[..., Result]:
    """Let a function differentiate where its caller is under ``torch.inference_mode``.

    Tensors made there cannot be differentiated: it gets copies of those among its arguments.
    """

    @functools.wraps(function)
    def called(*args: Any, **named: Any) -> Result:
        if not torch.is_inference_mode_enabled():
            return function(*args, **named)
        with torch.inference_mode(False):
            plain = {name: _ordinary(value) for name, value in named.items()}
            return function(*map(_ordinary, args), **plain)

    return called


def taking_data(function: Callable[..., Result]) -> Callable[..., Result]:
    """Let a function of (net, x, y, ...) take arrays, tensors of any number type, and data sets.

    Inputs become tensors of the network's type; bytes are divided by 255. Labels become int64. Of a
    Dataset or DataLoader as ``x``, with None as ``y``, all inputs and labels are taken, in order.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def called(*args: Any, **named: Any) -> Result:
        bound = signature.bind(*args, **named)
        given = bound.arguments
        given["net"] = net = as_bounded_net(given["net"])
        x, y = given["x"], given["y"]
        if y is None and isinstance(x, (Dataset, DataLoader)):
            x, y = read_pairs(x)
        given["x"] = _as_inputs(x, net.like)
        given["y"] = _as_labels(y, given["x"])
        return function(*bound.args, **bound.kwargs)

    return called


def _as_inputs(x: Any, like: Tensor | None) -> Any:
    """Return arrays and numbers of other types as the network takes them; all else as it is."""
    if isinstance(x, np.ndarray) and x.dtype.kind in "fiu":
        x = torch.from_numpy(np.ascontiguousarray(x))
        x = x if like is None else x.to(like.device)
    numbers = isinstance(x, Tensor) and x.layout == torch.strided and not x.is_meta
    if not numbers or like is None or x.dtype in (like.dtype, torch.bool) or x.is_complex():
        return x
    return x.to(like.dtype) / 255 if x.dtype == torch.uint8 else x.to(like.dtype)


def _as_labels(y: Any, x: Any) -> Any:
    """Return arrays and whole numbers of other types as int64; all else as it is."""
    if isinstance(y, np.ndarray) and y.dtype.kind in "iu":
        y = torch.from_numpy(y.astype(np.int64))
        y = y.to(x.device) if isinstance(x, Tensor) else y
    whole = isinstance(y, Tensor) and not y.is_meta and y.layout == torch.strided
    return y.long() if whole and y.dtype in _WHOLE else y


def _ordinary(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def check_inputs(
    net: BoundedNet,
    x: Any,
    name: str = "x",
    *,
    least: int = 1,
    anywhere: bool = False,
    finite: bool = True,
) -> None:
    """Raise InputError unless inputs are what a network takes.

    Args:
        net: The network.
        x: The inputs (N, ...).
        name: What the message calls them.
        least: Smallest N.
        anywhere: Whether they may be on another device than the network.
        finite: Whether NaN and infinity are refused.
    """
    check_tensor(x, name)
    shape, like = net.input_shape, net.like
    if x.ndim != len(shape) + 1 or tuple(x.shape[1:]) != shape or len(x) < least:
        wanted = f"(N, {', '.join(map(str, shape))}), N >= {least}"
        raise InputError(f"{name} has shape {tuple(x.shape)}; expected {wanted}")
    if like is not None and (x.dtype != like.dtype or not (anywhere or x.device == like.device)):
        raise InputError(
            f"{name} is {kind_of(x)}, but the network is {like.dtype} on {like.device}; "
            "bring both to one type and device"
        )
    whole = not finite or are_values_known(x) or bool(torch.isfinite(x).all())
    require(whole, f"{name} holds NaN or infinite values; expected finite inputs")


def check_labelled(
    net: BoundedNet, x: Any, y: Any, *, least: int = 1, anywhere: bool = False, finite: bool = True
) -> None:
    """Raise InputError unless each input has a label, and all fit; see ``check_inputs``."""
    check_tensor(x, "x")
    if isinstance(y, Tensor) and x.ndim and y.ndim and not len(x) == len(y) >= least:
        raise InputError(f"{len(x)} inputs but {len(y)} labels; expected as many, at least one")
    check_labels(y, net.classes)
    check_inputs(net, x, least=least, anywhere=anywhere, finite=finite)
    here = y.device == x.device
    require(here, f"labels are on {y.device}, inputs on {x.device}; use y.to(x.device)")
