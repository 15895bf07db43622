"""Takes off what stands around a network or ends it, before the rest is traced."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from ..errors import InputError
from ..models import Normalise


def unwrapped(model: Any) -> Any:
    """Take off DataParallel and torch.compile, which share everything with the model inside.

    Raises:
        InputError: The model is in DistributedDataParallel.
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise InputError(
                "DistributedDataParallel does not average the gradients of bounds; pass "
                "model.module, and average the gradients before the optimiser's step"
            )
        parallel = isinstance(model, nn.DataParallel)
        inner = model.module if parallel else getattr(model, "_orig_mod", model)
        if inner is model:
            return model
        model = inner


def split_normalise(model: nn.Module) -> tuple[nn.Module | None, nn.Module]:
    """Split a leading Normalise layer off; both parts share everything with ``model``."""
    if isinstance(model, nn.Sequential) and len(model) > 1 and isinstance(model[0], Normalise):
        core = nn.Sequential(OrderedDict(list(model._modules.items())[1:]))
        core.training = model.training  # a new Sequential is in train mode
        return model[0], core
    return None, model


class _Logits(nn.Sequential):
    """A Sequential without the softmax that it ends with: the same layers, names and mode."""

    def __init__(self, whole: nn.Sequential):
        mode = whole.training
        object.__setattr__(self, "_whole", [whole])  # a list, as layers would be submodules
        super().__init__(OrderedDict(list(whole._modules.items())[:-1]))
        whole.training = mode

    @property
    def training(self) -> bool:
        return self._whole[0].training

    @training.setter
    def training(self, mode: bool) -> None:
        self._whole[0].training = mode


def without_softmax(model: nn.Module) -> nn.Module:
    """Take off the softmax that a Sequential ends with: its classes are those of the logits.

    What is returned has the training mode that ``model`` has at any time; it may be ``model``.
    """
    if not isinstance(model, nn.Sequential) or len(model) < 2:
        return model
    last = model[-1]
    takes_off = isinstance(last, (nn.Softmax, nn.LogSoftmax)) and last.dim in (1, -1)
    return _Logits(model) if takes_off else model
