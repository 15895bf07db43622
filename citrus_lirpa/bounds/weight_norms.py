"""Layers under weight or spectral norm, by the weights that they have in eval mode."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import ModelError

_NORMS = ("_WeightNorm", "_SpectralNorm")


@dataclass(frozen=True)
class NormedWeight:
    """A weight that a layer computes, and what it was when the network was wrapped.

    Attributes:
        place: The name of the layer.
        layer: The layer.
        name: Which of its weights.
        value: The weight in eval mode.
    """

    place: str
    layer: nn.Module
    name: str
    value: nn.Parameter

    def check(self) -> None:
        """Raise ModelError in train mode, and where the weight has changed since."""
        if self.layer.training:
            raise ModelError(
                f"layer '{self.place}' has weight or spectral norm, which bounds know in eval mode "
                "alone; to train by bounds, call torch.nn.utils.parametrize."
                f"remove_parametrizations(layer, '{self.name}') on it first"
            )
        with torch.no_grad():
            same = torch.equal(getattr(self.layer, self.name), self.value)
        if not same:
            raise ModelError(
                f"the weight of layer '{self.place}' has changed since it was wrapped; layers "
                "under weight or spectral norm are wrapped as they are: wrap the model again"
            )


def without_norms(core: nn.Module) -> tuple[nn.Module, list[NormedWeight]]:
    """Return a network with its computed weights as plain ones, and these; itself without any.

    All other parameters and buffers are shared.
    """
    found = list(_normed(core))
    if not found:
        return core, []
    tensors = itertools.chain(core.parameters(), core.buffers())
    plain = copy.deepcopy(core, {id(t): t for t in tensors})
    weights = []
    for place, layer, name in found:
        mode = layer.training
        layer.eval()  # in train mode spectral norm would move
        value = nn.Parameter(getattr(layer, name).detach().clone(), requires_grad=False)
        layer.train(mode)
        mine = plain.get_submodule(place)
        if "parametrizations" in mine._modules:
            mine.__class__ = type(mine).__bases__[0]
            del mine._modules["parametrizations"]
        mine.register_parameter(name, value)
        weights.append(NormedWeight(place, layer, name, value))
    return plain, weights


def _normed(core: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield name, layer and weight of those whose only parametrisation is such a norm."""
    for place, layer in core.named_modules():
        for name, parts in dict(getattr(layer, "parametrizations", {})).items():
            if [type(part).__name__ in _NORMS for part in parts] == [True]:
                yield place, layer, name
