"""Networks that are trained, but not bounded."""

from __future__ import annotations

from torch import Tensor, nn

from .net import BoundedNet


class UnboundedNet(BoundedNet):
    """What the training loop takes for a network from images to images.

    It has the module, its modes and its weights, and no graph: nothing of it can be bounded.

    Args:
        module: Maps images to images of the same shape.
        classes: Number of classes of the images' labels.
    """

    def __init__(self, module: nn.Module, classes: int):
        self.module, self.classes = module, classes
        self.normalise, self.attacked, self.attack_dtype = None, None, None
        self.fast = None
        self._modes: list[tuple[nn.Module, nn.Module]] = []

    def __call__(self, x: Tensor) -> Tensor:
        """Compute images (N, ...)."""
        return self.module(x)

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.parameters())
        return f"UnboundedNet({parameters:,} parameters on {self.parameters()[0].device})"
