"""What the inputs and labels given for a network may be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .checks import check_labels, check_tensor, kind_of
from .net import BoundedNet


def check_inputs(
    net: BoundedNet,
    x: Any,
    name: str = "x",
    *,
    least: int = 1,
    anywhere: bool = False,
    finite: bool = True,
) -> None:
    """Refuse what are not ``least`` or more inputs (N, ...), as the network wants them.

    anywhere: they may be on another device than the network; finite: refuse NaN and infinity.
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
    if finite and not bool(torch.isfinite(x).all()):
        raise InputError(f"{name} holds NaN or infinite values; expected finite inputs")


def check_labelled(
    net: BoundedNet,
    x: Any,
    y: Any,
    *,
    least: int = 1,
    anywhere: bool = False,
    finite: bool = True,
) -> None:
    """Refuse inputs and labels that are not as many, or not what the network takes."""
    check_tensor(x, "x")
    if isinstance(y, Tensor) and x.ndim and y.ndim and (len(x) != len(y) or len(x) < least):
        raise InputError(f"{len(x)} inputs but {len(y)} labels; expected as many, at least one")
    check_labels(y, net.classes)
    check_inputs(net, x, least=least, anywhere=anywhere, finite=finite)
    if y.device != x.device:
        raise InputError(f"labels are on {y.device}, inputs on {x.device}; use y.to(x.device)")
