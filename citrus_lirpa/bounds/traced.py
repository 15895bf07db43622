"""A classifier and auto_LiRPA's trace of it, which share weights and training modes."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError, ModelError, require
from . import lirpa
from .box import Box, Interval, RoundBox
from .checks import check_tensor
from .cutting import chain, segment_behind
from .graph import Graph
from .segments import INPUT, Segment
from .tracing import (
    check_logits,
    check_paddings,
    count_classes,
    explained,
    fed_by_addition,
    input_node,
    mode_pairs,
    modes_restored,
    nodes,
    rng_kept,
    wrap,
)
from .unwrapping import split_normalise, unwrapped, without_softmax
from .weight_norms import NormedWeight, without_norms

Self = TypeVar("Self", bound="TracedModule")
#: Images of the example that is made where none is given.
_EXAMPLES = 2
#: Held by the thread that uses a network: modes, memory limits and precision are of the process.
_IN_USE = threading.RLock()


class TracedModule:
    """A module, and the graph that auto_LiRPA traces of it; :class:`~.net.BoundedNet` bounds it.

    Args:
        model: The classifier, or an auto_LiRPA BoundedModule of it.
        example: One batch of inputs of the right shape, dtype and device.

    Attributes:
        module: The user's module; without the softmax, if it is a Sequential that ends with one.
        bounded: auto_LiRPA's BoundedModule of it.
        normalise: The leading Normalise layer, or None.
        classes: Number of classes K.
        graph: The traced graph.

    Raises:
        InputError: The model or the example is not one.
        ModelError: auto_LiRPA cannot trace the model.
    """

    def __init__(self, model: nn.Module, example: Tensor | None):
        library = lirpa.load()
        kind = type(model).__name__
        require(
            isinstance(model, nn.Module), f"the model is of type {kind}; expected a torch.nn.Module"
        )
        whole = unwrapped(model)
        self.module: nn.Module = without_softmax(whole)
        model = self.module
        self.normalise: nn.Module | None = None
        self._modes: list[tuple[nn.Module, nn.Module]] = []
        self._normed: list[NormedWeight] = []
        self.bounded: Any  # a BoundedModule: auto_LiRPA has no types
        if isinstance(model, library.BoundedModule):
            lirpa.repair_options(model)
            self.bounded = model
        elif example is None:
            raise InputError("BoundedNet(model, example) needs an example: a batch of inputs")
        else:
            self._wrap(model, example)
        self._dropout = [m for part in (model, self.bounded) for m in part.modules() if _drops(m)]
        self._places = _places(whole, self.bounded)
        self.classes = count_classes(self.bounded)
        check_paddings(self.bounded)
        self.graph = Graph(self.bounded)
        self._has_batchnorm = any(
            type(n).__name__ == "BoundBatchNormalization" for n in nodes(self.bounded)
        )

    def _wrap(self, model: nn.Module, example: Tensor) -> None:
        """Trace a module, without its leading normalisation, into one of auto_LiRPA."""
        _check_example(example)
        self.normalise, core = split_normalise(model)
        with explained("the example"):
            inputs = self._normalised(example)
        core, self._normed = without_norms(core)
        with rng_kept(example.device):
            self.bounded = wrap(core, inputs)
        self._modes = mode_pairs(self.bounded, core)
        self._modes[0] = self.bounded, model
        self._follow_modes()

    def __call__(self, x: Tensor) -> Tensor:
        """Compute logits (N, K). In train mode this sets the BatchNorm statistics for bounds."""
        with _IN_USE:
            if self._has_batchnorm and self.training:
                logits = self.bounded(self._normalised(x))
                self.graph.forget_values()
                return logits
            return check_logits(self.module(x))

    def logits(self, x: Tensor) -> Tensor:
        """Compute logits (N, K) of other inputs than the batch's, and update nothing.

        BatchNorm uses the statistics that bounds use: in train mode those of the last ``net(x)``.
        """
        if self._has_batchnorm and self.training:
            return self.tail(INPUT)(self._normalised(x))
        return self.module(x)

    def parameters(self) -> list[nn.Parameter]:
        """Return the module's parameters."""
        return list(self.module.parameters())

    @property
    def like(self) -> Tensor | None:
        """A tensor of the type and on the device of the inputs; None for a network without any."""
        return next((t for t in _tensors(self.module) if t.is_floating_point()), None)

    @property
    def training(self) -> bool:
        """Whether the module is in train mode."""
        self._follow_modes()
        return self.module.training

    def _follow_modes(self) -> None:
        """Give bounds the training modes that the module's layers have now."""
        for part, layer in self._modes:
            if part.training != layer.training:
                part.train(layer.training)

    def train(self: Self, mode: bool = True) -> Self:
        """Set train or eval mode of the module, and return itself."""
        self.module.train(mode)
        return self

    def eval(self: Self) -> Self:
        """Set eval mode of the module, and return itself."""
        return self.train(False)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Let no other thread use a network inside the block, with Dropout off.

        Raise ModelError where the module's weights are no longer those that are bounded.
        """
        with _IN_USE:
            self.check_weights()
            self._follow_modes()
            dropping = [layer for layer in self._dropout if layer.training]
            for layer in dropping:
                layer.training = False
            try:
                yield
            finally:
                for layer in dropping:
                    layer.training = True

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Set eval mode inside a block of ``in_use``; restore every layer's mode after it."""
        with self.in_use(), modes_restored(self.module), modes_restored(self.bounded):
            self.eval()._follow_modes()
            yield

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(input_node(self.bounded).output_shape[1:])

    def input_box(self, box: Box) -> Box:
        """Return the box as the first layer after normalisation sees it."""
        ends = self._normalised(box.lower), self._normalised(box.upper)
        if not isinstance(box, RoundBox):
            return Box(*ends)
        middle, axes = box.round
        axes = self._normalised(axes) - self._normalised(torch.zeros_like(axes))
        return RoundBox(*ends, Interval(self._normalised(middle), axes))

    @property
    def relus(self) -> int:
        """How many ReLU layers the network has."""
        return len(self.graph.relus)

    def tail(self, relu: int) -> Segment:
        """Return the network from the output of ReLU ``relu``, in network order, to the logits."""
        return segment_behind(self.graph, relu)

    def chain(self, relus: int) -> list[Segment]:
        """Return the affine maps from pixels to the first ReLU, then from each ReLU to the next.

        They end at the inputs of ``relus`` ReLUs, and have the current weights, with graph.

        Raises:
            ModelError: The network cannot be split so.
        """
        return chain(self.graph, self.normalise, relus)

    def output_weight(self) -> nn.Parameter:
        """Return the weight of the layer that computes the logits."""
        node = self.bounded.final_node()
        while type(node).__name__ not in ("BoundConv", "BoundLinear"):
            node = node.inputs[0]
        return node.inputs[1].param

    def weights_after_addition(self) -> list[nn.Parameter]:
        """Return the weights of layers whose input is a sum of two computed values (residuals)."""
        return [n.inputs[1].param for n in nodes(self.bounded) if fed_by_addition(n)]

    def _normalised(self, x: Tensor) -> Tensor:
        return x if self.normalise is None else self.normalise(x)

    def _example(self) -> Tensor:
        example = torch.full((_EXAMPLES, *self.input_shape), 0.5)
        return example if self.like is None else example.to(self.like)

    def check_weights(self) -> None:
        """Raise ModelError if the module's weights are no longer those that were wrapped."""
        if not all(table.get(name) is value for table, name, value in self._places):
            raise ModelError(
                "the model's parameters or buffers are not those that were wrapped: they have been "
                "replaced since, as by load_state_dict(assign=True) or a move to another device "
                "or type; wrap the model again"
            )

    def _check_normed(self) -> None:
        """Raise ModelError where weights under weight or spectral norm are no longer those."""
        for weight in self._normed:
            weight.check()


def _drops(module: nn.Module) -> bool:
    dropout = isinstance(module, nn.modules.dropout._DropoutNd)
    return dropout or type(module).__name__ == "BoundDropout"


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())


def _places(module: nn.Module, bounded: nn.Module) -> list[tuple[dict[str, Any], str, Any]]:
    """(table, name, value) of every submodule, and of the tensors that both modules share."""
    shared = {id(t) for t in _tensors(module)} & {id(t) for t in _tensors(bounded)}
    return [
        (table, name, value)
        for m in module.modules()
        for table in (m._modules, m._parameters, m._buffers)
        for name, value in table.items()
        if table is m._modules or id(value) in shared
    ]


def _check_example(example: Tensor) -> None:
    check_tensor(example, "the example")
    require(
        example.ndim >= 2 and example.numel() > 0,
        f"the example has shape {tuple(example.shape)}; expected a batch of inputs, (N, ...)",
    )
