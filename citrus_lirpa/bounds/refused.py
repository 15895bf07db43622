"""Layers that are refused before a model is traced, each with what to write instead."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import ModelError
from . import lirpa
from .dataflow import left_out


def check_layers(core: nn.Module) -> None:
    """Raise ModelError for the first layer that is known not to be bounded."""
    for name, module in core.named_modules():
        _check_wrapper(name, module)
        unknown = (nn.GroupNorm, nn.LayerNorm) if lirpa.load().legacy else nn.GroupNorm
        if isinstance(module, unknown):
            raise ModelError(
                f"layer '{name}' is a {type(module).__name__}, which auto_LiRPA "
                f"{lirpa.load().version} cannot bound; use BatchNorm"
            )
        same = isinstance(module, nn.Conv2d) and module.padding == "same"
        if same and any(span % 2 for span in spans(module)):
            raise ModelError(
                f"layer '{name}' has padding=\"same\" and a kernel that it pads unevenly; use an "
                "odd kernel, or ZeroPad2d before it"
            )
        if isinstance(module, nn.AvgPool2d) and module.divisor_override is not None:
            raise ModelError(
                f"layer '{name}' is an AvgPool2d with {left_out(module.divisor_override)}"
            )
        if isinstance(module, nn.Conv1d) and lirpa.load().legacy:
            raise ModelError(
                f"layer '{name}' is a Conv1d, which auto_LiRPA 0.3 cannot bound; write it as a "
                "Conv2d with kernel (1, k), or install auto_LiRPA 0.7"
            )
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            _check_batchnorm(name, module)


def _check_batchnorm(name: str, layer: Any) -> None:
    if not layer.track_running_stats:
        raise ModelError(
            f"BatchNorm layer '{name}' has track_running_stats=False, so that the logits of an "
            "image depend on the other images of its batch; make it with track_running_stats=True "
            "and train again"
        )
    if layer.momentum is None:
        raise ModelError(
            f"BatchNorm layer '{name}' has momentum=None, which auto_LiRPA cannot follow; set a "
            "number, such as layer.momentum = 0.1"
        )


def _check_wrapper(name: str, module: nn.Module) -> None:
    """Refuse wrappers within a model that cannot be traced, or whose weights would be copies."""
    parallel = isinstance(module, nn.DataParallel) and len(module.device_ids) > 1
    if parallel or isinstance(module, nn.parallel.DistributedDataParallel):
        kind, inner = f"a {type(module).__name__}", "module"
    elif hasattr(module, "_orig_mod"):
        kind, inner = "made by torch.compile", "_orig_mod"
    elif isinstance(module, torch.jit.ScriptModule) or _quantised(module):
        layer = f"layer '{name}'" if name else "the model"
        what = "quantised" if _quantised(module) else "TorchScript"
        raise ModelError(f"{layer} is {what}, which cannot be bounded; pass what it was made from")
    else:
        return
    raise ModelError(
        f"layer '{name}' is {kind}, which cannot be bounded inside a model; put its .{inner} there"
    )


def _quantised(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.ao.nn") and "quantized" in str(type(module))


def spans(layer: nn.Conv2d) -> list[int]:
    """How many values a convolution's kernel reaches beyond one, along each axis."""
    return [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
