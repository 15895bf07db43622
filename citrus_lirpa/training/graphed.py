"""Steps of a training on a GPU as CUDA graphs, each of which the host launches at once.

A graph repeats the kernels of the step that it was captured from: it reads and writes the same
memory, and whatever the host put into that step is in it for good. So a batch is copied to where
the graph reads it, and the numbers of a step (its own, ε, the weight of the regulariser, the
learning rate) are scalars on the GPU. What the host decides by them makes steps of different
kinds, and a graph for each: while ε is 0 (natural), while the regulariser counts (ramp), and then.
Losses say what else they decide (``Stage.graph``), or that a step cannot be captured.

Random numbers: batches and their augmentation are drawn outside of the graph
(:class:`~.batches.Batches`). What a step draws itself, as the starts of attacks, comes from the
GPU's own generator, which ``torch.cuda.graph`` registers: each replay moves it as the step did.

It has not run on a GPU so far, only on a stand-in (tests/training/test_graphed.py).
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..bounds.checks import Scalar, is_positive
from ..bounds.net import BoundedNet
from ..errors import reason
from ..losses.base import Stage

_log = logging.getLogger(__name__)

#: Steps of a kind that are made as usual before one is captured: libraries choose their kernels
#: in them, and Adam makes its averages. The last one shows whether the host waits for the GPU.
WARM_UP = 3
#: What torch warns of in ``torch.cuda.set_sync_debug_mode("warn")``.
_WAIT = "called a synchronizing CUDA operation"


class Inputs(NamedTuple):
    """What a step takes. Its numbers are positive where they are tensors.

    Attributes:
        x: Inputs (B, ...).
        y: Labels (B,).
        step: The number of the step.
        eps: ε.
        shi: Weight of the regulariser.
        stage: What the loss says of the step.
    """

    x: Tensor
    y: Tensor
    step: Scalar
    eps: Scalar
    shi: Scalar
    stage: Stage


class Outputs(NamedTuple):
    """What is left of a step.

    Attributes:
        measured: What ``measure`` gives.
        perturbations: Those that were tried; None without an attack.
    """

    measured: Tensor
    perturbations: Tensor | None


class GraphedSteps:
    """Makes steps on a GPU: as usual, or as graphs where the loss allows it.

    Where a step waits for the GPU or cannot be captured, all go on as usual, and the log says so.

    Args:
        step: Makes a step.
        net: The network that it trains.
    """

    def __init__(self, step: Callable[[Inputs], Outputs], net: BoundedNet):
        self._step, self._net = step, net
        self._device = net.parameters()[0].device
        self._stream = torch.cuda.Stream(self._device)
        self._pool = torch.cuda.graph_pool_handle()
        self._static: tuple[Tensor, ...] = ()
        self._made: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Outputs]] = {}
        self._refused = self._told = False

    @contextlib.contextmanager
    def own_stream(self) -> Iterator[None]:
        """Compute on a stream of its own inside the block.

        Graphs cannot be captured on the default stream. Autograd accumulates a weight's gradients
        on the stream that first used it, so all steps have to be on this one.
        """
        before = torch.cuda.current_stream(self._device)
        _let_go(self._net)
        self._stream.wait_stream(before)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            before.wait_stream(self._stream)
            _let_go(self._net)

    def forget(self) -> None:
        """Capture anew: for an epoch's end, whose record a user may answer with another loss."""
        self._graphs.clear()
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, inputs: Inputs) -> Outputs:
        """Make a step."""
        if self._refused:
            return self._step(inputs)
        if inputs.stage.graph is None:
            if not self._told:
                _log.info("step %d and others are not made CUDA graphs: the loss does not let "
                          "one repeat them", inputs.step)  # fmt: skip
            self._told = True
            return self._step(inputs)
        here = self._copied(inputs)
        if here is None:
            return self._step(inputs)
        kind = inputs.stage.graph, is_positive(inputs.eps), is_positive(inputs.shi)
        self._made[kind] += 1
        if self._made[kind] < WARM_UP:
            return self._step(here)
        if self._made[kind] == WARM_UP:
            return self._watched(here)
        if kind not in self._graphs and not self._captured(kind, here):
            return self._step(inputs)
        graph, outputs = self._graphs[kind]
        graph.replay()
        return outputs

    def _copied(self, inputs: Inputs) -> Inputs | None:
        """Copy the inputs to where graphs read them; return None for a batch of another shape."""
        if not self._static:
            # products of these numbers, step, ε and weight, are rounded as those of floats: ε is
            # multiplied by floats and by tensors with dimensions, the weight by a scalar
            types = torch.float64, torch.float64, inputs.x.dtype
            numbers = [torch.zeros((), dtype=t, device=inputs.x.device) for t in types]
            self._static = torch.empty_like(inputs.x), torch.empty_like(inputs.y), *numbers
        x, y, step, eps, shi = self._static
        if x.shape != inputs.x.shape:
            return None
        x.copy_(inputs.x)
        y.copy_(inputs.y)
        for place, number in zip(self._static[2:], inputs[2:5], strict=True):
            place.fill_(number)
        return Inputs(
            x,
            y,
            step,
            eps if is_positive(inputs.eps) else 0.0,
            shi if is_positive(inputs.shi) else 0.0,
            inputs.stage,
        )

    def _watched(self, inputs: Inputs) -> Outputs:
        """Make a step; refuse graphs if the host waits in it.

        A capture would fail then, and torch (2.11) may be unusable after a capture that failed.
        """
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", _WAIT)
            torch.cuda.set_sync_debug_mode("warn")
            try:
                outputs = self._step(inputs)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        if caught:
            self._refuse(f"the host waits for the GPU at {caught[0].filename}:{caught[0].lineno}")
        return outputs

    def _captured(self, kind: Hashable, inputs: Inputs) -> bool:
        """Capture a step, which computes nothing; return whether it could be."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # one pool, as graphs pass nothing to each other but through weights and statistics
            with torch.cuda.graph(graph, pool=self._pool, stream=stream):
                outputs = self._step(inputs)
        except RuntimeError as error:
            self._refuse(reason(error))
            return False
        self._graphs[kind] = graph, outputs
        return True

    def _refuse(self, why: str) -> None:
        self._refused = True
        self._graphs.clear()
        _log.info("training steps are not made CUDA graphs: %s", why)


def _let_go(net: BoundedNet) -> None:
    """Forget the gradients that auto_LiRPA's nodes remember: their leaves are tied to a stream."""
    for node in getattr(net, "bounded", net.module).modules():
        for name, value in list(vars(node).items()):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                setattr(node, name, value.detach())
