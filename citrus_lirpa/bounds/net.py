"""BoundedNet: sound bounds of a classifier over boxes of pixels, through auto_LiRPA."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DependencyError, InputError, ModelError, reason
from . import lirpa as _compat
from .box import Box, Interval
from .checks import check_labels, check_name, check_tensor
from .interval import Plan, is_layer, make_plan, margin_bounds, terms_of
from .margins import specification, wrong_classes
from .segments import INPUT, Piece, affine_pieces, computed
from .selfcheck import self_check
from .tail import Tail
from .tracing import (
    count_classes,
    explained,
    fed_by_addition,
    input_node,
    modes_restored,
    nodes,
    optimising,
    relu_nodes,
    split_normalise,
    wrap,
)

#: Our method names, cheapest first, and auto_LiRPA's.
METHODS = {
    "ibp": "IBP",
    "crown-ibp": "CROWN-IBP",
    "crown": "CROWN",
    "alpha-crown": "CROWN-Optimized",
}

#: A node's attributes with its bounds.
_ENDS = ("lower", "upper")


class BoundedNet:
    """A classifier together with the means to bound it.

    ``BoundedNet(model, example)`` wraps an ``nn.Module`` mapping images (N, ...) to
    logits (N, K); ``example`` is one batch of inputs of the right shape, dtype and
    device. ``BoundedNet(bounded_module)`` uses an existing auto_LiRPA BoundedModule.

    The user's module stays the single truth: parameters *and* BatchNorm statistics
    are shared with it, its training mode and ``requires_grad`` flags are kept, and
    its ``state_dict`` is the one to save. A leading :class:`~.models.Normalise` is
    applied to the boxes exactly, outside auto_LiRPA. Wrapping checks that the
    traced graph computes the same function and that its bounds contain it, and
    raises ModelError otherwise. Move the model to its device before wrapping it.

    In train mode with BatchNorm, call ``net(x)`` on the clean batch first: its batch
    statistics, with gradient, are those that the following bounds use.
    """

    def __init__(self, model: nn.Module, example: Tensor | None = None):
        lirpa = _compat.load()
        if not isinstance(model, nn.Module):
            raise InputError(f"the model is a {type(model).__name__}; expected a torch.nn.Module")
        self._bounded_box: Box | None = None
        self._bounded_at: object = None  # ``_state`` then
        self._inputs: Interval | None = None  # of the last interval pass, normalised
        self._before: list[Interval] | None = None
        self.module: nn.Module = model
        self.bounded: Any  # a BoundedModule: auto_LiRPA has no types
        if isinstance(model, lirpa.BoundedModule):
            _compat.repair_options(model)
            self.bounded = model
            self.normalise = None
        elif example is None:
            raise InputError("BoundedNet(model, example) needs an example batch of inputs")
        else:
            _check_example(example)
            self.normalise, core = split_normalise(model)
            with explained("the example"):
                inputs = self._normalised(example)
            self.bounded = wrap(core, inputs)
        own = {id(t) for t in _tensors(self.module)}
        self._shared = [t for t in _tensors(self.bounded) if id(t) in own]
        self._places = _places(self.module, self._shared)
        self.classes = count_classes(self.bounded)
        self._has_batchnorm = any(
            type(n).__name__ == "BoundBatchNormalization" for n in nodes(self.bounded)
        )
        self._plan: Any = make_plan(self.bounded)
        self._logits: Callable[..., Any] = Plan.logits
        self._intervals: Callable[..., Any] = Plan.intervals
        self.attack_dtype: torch.dtype | None = None
        if example is not None:
            self_check(self, example)

    def __repr__(self) -> str:
        parameters = self.parameters()
        relus = f"{self.relus} ReLU layer{'' if self.relus == 1 else 's'}"
        return (
            f"BoundedNet({self.input_shape} -> {self.classes} classes, {relus}, "
            f"{sum(p.numel() for p in parameters):,} parameters on {parameters[0].device}, "
            f"{'train' if self.training else 'eval'} mode)"
        )

    # -- the network itself -------------------------------------------------------

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (N, K). In train mode this sets the BatchNorm statistics for bounds."""
        if self._has_batchnorm and self.bounded.training:
            return self.bounded(self._normalised(x))
        return self.module(x)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, K) of other inputs than the batch's, with the BatchNorm statistics that
        bounds use: in train mode those of the last ``net(x)``. Nothing is updated."""
        if self._has_batchnorm and self.bounded.training:
            return Tail.behind(self.bounded, INPUT)(self._normalised(x))
        return self.module(x)

    def frozen(self) -> Callable[[Tensor], Tensor]:
        """The network as it is now and in eval mode: a function from inputs (N, ...) to logits
        (N, K), differentiable in the inputs alone; where auto_LiRPA bounds it, the network
        itself. For the many steps of an attack; call it inside ``evaluating``, and again once
        the weights have changed. It computes in ``attack_dtype``, where that is not None, and
        returns logits of the inputs' type."""
        if self._plan is None:
            return self._rounded_logits
        weights = self._plan.frozen_weights(self.attack_dtype)
        return lambda x: self._logits(
            self._plan, weights, self._normalised(x).to(self.attack_dtype or x.dtype)
        ).to(x.dtype)

    def _rounded_logits(self, x: Tensor) -> Tensor:
        rounds = self.attack_dtype is not None
        with torch.autocast(x.device.type, self.attack_dtype, enabled=rounds):
            return self(x).to(x.dtype)

    def compile(self) -> None:
        """Let torch.compile make kernels of interval bounds, and on a GPU of ``frozen`` too,
        with CUDA graphs. (On a CPU its convolutions are as fast as they can be.) The first calls
        take half a minute or more. Nothing is compiled where auto_LiRPA bounds the network.

        Raises DependencyError where torch.compile does not work, as without a C++ compiler.
        """
        check_compiler()
        cuda = self.parameters()[0].is_cuda
        options: dict[str, Any] = {
            "dynamic": False,
            "mode": "reduce-overhead" if cuda else "default",
        }
        self._intervals = torch.compile(Plan.intervals, **options)
        if cuda:
            self._logits = torch.compile(Plan.logits, **options)

    @property
    def relus(self) -> int:
        """How many ReLU layers the network has."""
        return len(relu_nodes(self.bounded))

    def tail(self, relu: int) -> Tail:
        """The network from the output of ReLU ``relu`` (in network order) to the logits."""
        return Tail.behind(self.bounded, relu)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.module.parameters())

    @property
    def like(self) -> Tensor | None:
        """A tensor of the type and on the device of the inputs; None for a network without any."""
        return next((t for t in _tensors(self.module) if t.is_floating_point()), None)

    @property
    def training(self) -> bool:
        return self.bounded.training

    def train(self, mode: bool = True) -> BoundedNet:
        """Train or eval mode of both the module and its bounds; returns itself."""
        self.module.train(mode)
        self.bounded.train(mode)
        return self

    def eval(self) -> BoundedNet:
        return self.train(False)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Eval mode inside the block; every layer's mode before it is restored. ModelError where
        the module's weights are no longer those that are bounded."""
        self._check_shared()
        with modes_restored(self.module), modes_restored(self.bounded):
            self.eval()
            yield

    # -- bounds -------------------------------------------------------------------

    def margins(self, box: Box, y: Tensor, method: str = "ibp") -> Tensor:
        """(N, K-1) lower bounds of logit_y - logit_c over each box, c != y ascending.

        box: N boxes in pixels; y: (N,) labels. For every x in box n,
        margin(x) >= bound, up to float32 rounding. ``ibp``, ``crown-ibp`` and
        ``crown`` are differentiable in the weights (``crown`` is tighter under
        ``torch.no_grad``); ``alpha-crown`` optimises the relaxation of margins that CROWN
        cannot prove positive and returns a detached bound, leaving ``.grad`` untouched.

        Raises InputError for a box or labels that do not fit, ModelError where the layers do
        not allow the method, or the module's weights are no longer those that were wrapped.
        """
        check_method(method)
        self._check_box(box)
        check_labels(y, self.classes)
        if len(y) != len(box):
            raise InputError(f"{len(box)} boxes but {len(y)} labels")
        if method == "ibp" and self._plan is not None:
            return self._interval_margins(box, y)
        c = specification(y, self.classes, box.lower.dtype)
        return self._lower_bounds(box, c, method)

    def preactivation_bounds(self, box: Box) -> list[Box]:
        """Bounds on the input of every ReLU over ``box``, in network order.

        Those of the last pass where it was on this very box, by the same weights, and they are
        still known; else IBP's, computed. (Weights changed in place through ``.data`` are not
        seen to have changed; take a new box then.)
        """
        if not self._is_bounded(box) or not self._bounds_are_known():
            self._check_box(box)
            if self._plan is None:
                self._lower_bounds(box, None, "ibp")
            else:
                self._propagate(box)
        if self._before is not None:
            return [interval.box() for interval in self._before]
        return [Box(n.inputs[0].lower, n.inputs[0].upper) for n in relu_nodes(self.bounded)]

    def hidden_bounds(self) -> list[Tensor]:
        """(N, ...) what adds up to the values of layers, and ends of the bounds of all computed
        ones, as far as auto_LiRPA's last pass, on N boxes, left them."""
        count = 0 if self._bounded_box is None else len(self._bounded_box)
        largest = {}
        for node in filter(computed, nodes(self.bounded)):
            ends = [e for end in _ENDS if isinstance(e := getattr(node, end, None), Tensor)]
            if len(ends) == 2 and all(end.shape[:1] == (count,) for end in ends):
                largest[node.name] = torch.maximum(*(end.abs() for end in ends))
        layers = [n for n in nodes(self.bounded) if is_layer(n) and n.inputs[0].name in largest]
        terms = [terms_of(layer, largest[layer.inputs[0].name]) for layer in layers]
        return [*terms, *largest.values()]

    def largest_terms(self, box: Box, before: list[Box]) -> Tensor | None:
        """(N,) the largest sum of absolute values that a layer adds up anywhere in ``box``, with
        inputs of ReLUs in ``before``; None where auto_LiRPA bounds the network."""
        if self._plan is None:
            return None
        weights = self._plan.frozen_weights()
        return self._plan.largest_terms(weights, Interval.of(self.input_box(box)), before)

    def preactivation_intervals(self, box: Box) -> list[Interval]:
        """The same bounds as centre and radius, which is what interval bounds are kept as."""
        if self._is_bounded(box) and self._before is not None:
            return self._before
        return [Interval.of(bounds) for bounds in self.preactivation_bounds(box)]

    def input_interval(self, box: Box) -> Interval:
        """``input_box`` as centre and radius."""
        if self._is_bounded(box) and self._inputs is not None:
            return self._inputs
        return Interval.of(self.input_box(box))

    def input_box(self, box: Box) -> Box:
        """The box as the first layer after normalisation sees it."""
        return Box(self._normalised(box.lower), self._normalised(box.upper))

    def affine_pieces(self) -> list[Piece]:
        """The network as affine maps between ReLUs, of pixels; ModelError for other graphs."""
        return affine_pieces(self.bounded, self.normalise)

    def in_float64(self) -> BoundedNet | None:
        """A copy in double precision; None where only a BoundedModule is known."""
        if self.module is self.bounded or self.like is None:
            return None
        example = torch.zeros(2, *self.input_shape, dtype=torch.float64, device=self.like.device)
        return BoundedNet(copy.deepcopy(self.module).double(), example)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input."""
        return tuple(input_node(self.bounded).output_shape[1:])

    def output_weight(self) -> nn.Parameter:
        """The weight of the layer that computes the logits."""
        node = self.bounded.final_node()
        while type(node).__name__ not in ("BoundConv", "BoundLinear"):
            node = node.inputs[0]
        return node.inputs[1].param

    def weights_after_addition(self) -> list[nn.Parameter]:
        """Weights of the layers whose input is a sum of two computed values (residuals)."""
        return [n.inputs[1].param for n in nodes(self.bounded) if fed_by_addition(n)]

    def _interval_margins(self, box: Box, y: Tensor) -> Tensor:
        last_layer, inputs = self._propagate(box)
        return margin_bounds(last_layer, inputs, y).gather(1, wrong_classes(y, self.classes))

    def _propagate(self, box: Box) -> tuple[tuple[Tensor, Tensor | None], Interval]:
        """Weight and bias of the last layer, and interval bounds of its inputs."""
        weights = self._plan.weights()
        self._inputs = Interval.of(self.input_box(box))
        self._before, last = self._intervals(self._plan, weights, self._inputs)
        self._bounded_box, self._bounded_at = box, self._state()
        return weights[-1], last

    def _lower_bounds(self, box: Box, c: Tensor | None, method: str) -> Tensor:
        self._bounded_box = self._inputs = self._before = None
        with explained(f"method '{method}'"):
            if method in ("ibp", "crown-ibp"):
                lower = self._compute(box, c, method)
            else:
                lower = self._crown(box, c, method == "alpha-crown")
        self._bounded_box, self._bounded_at = box, self._state()
        return lower

    def _is_bounded(self, box: Box) -> bool:
        """Whether the last pass was on this very box, in this state."""
        return self._bounded_box is box and self._bounded_at == self._state()

    def _state(self) -> object:
        """What bounds depend on beside the box: mode, and places and versions of the weights, of
        buffers too where they are not those of the batch."""
        of_batch = self.training
        return of_batch, [
            (t.data_ptr(), None if t.is_inference() else t._version)
            for t in self._shared
            if not of_batch or isinstance(t, nn.Parameter)
        ]

    def _check_shared(self) -> None:
        if not all(table.get(name) is value for table, name, value in self._places):
            raise ModelError(
                "the model's parameters or buffers are not those that were wrapped: they have been "
                "replaced since, as by load_state_dict(assign=True) or a move to another device "
                "or type; wrap the model again"
            )

    def _bounds_are_known(self) -> bool:
        """Whether bounds of ReLU inputs are there: auto_LiRPA forgets its own after optimising
        α, and in any forward pass."""
        return self._before is not None or all(
            getattr(node.inputs[0], end, None) is not None
            for node in relu_nodes(self.bounded)
            for end in _ENDS
        )

    def _check_box(self, box: Box) -> None:
        self._check_shared()
        shape = self.input_shape
        if not isinstance(box, Box):
            raise InputError(f"the box is a {type(box).__name__}; expected a Box, as Box.around's")
        for end in box:
            check_tensor(end, "a box's end")
        if box.lower.shape != box.upper.shape or tuple(box.lower.shape[1:]) != shape:
            raise InputError(
                f"a box has lower of shape {tuple(box.lower.shape)} and upper of shape "
                f"{tuple(box.upper.shape)}; expected (N, {', '.join(map(str, shape))}) for both"
            )
        like = self.like
        for end in box:
            if like is not None and (end.dtype, end.device) != (like.dtype, like.device):
                raise InputError(
                    f"a box is {end.dtype} on {end.device}, but the network is {like.dtype} on "
                    f"{like.device}; bring both to one type and device"
                )
        if not bool((box.lower <= box.upper).all()):
            raise InputError("a box has lower > upper or NaN; build boxes with Box.around")

    def _crown(self, box: Box, c: Tensor | None, optimise: bool) -> Tensor:
        """CROWN, its intermediate bounds cut with IBP's, which are sometimes the tighter;
        then, on these, the output's relaxation optimised for the margins not yet positive.

        With gradients on, CROWN alone: auto_LiRPA differentiates the cut wrongly.
        """
        if torch.is_grad_enabled() and not optimise:
            return self._compute(box, c, "crown")
        self._compute(box, c, "ibp")
        lower = self._compute(box, c, "crown", reference_bounds=self._intermediate_bounds())
        lower = lower.detach() if optimise else lower
        undecided = int((lower <= 0).sum(dim=1).max())
        if not optimise or undecided == 0 or c is None:
            return lower
        lowest = lower.topk(undecided, dim=1, largest=False).indices
        rows = c.gather(1, lowest.unsqueeze(2).expand(-1, -1, self.classes))
        with optimising(self.bounded, self.parameters()):
            fixed = _compat.bound_kwargs(interm_bounds=self._intermediate_bounds())
            optimised = self._compute(box, rows, "alpha-crown", **fixed)
        return lower.scatter_reduce(1, lowest, optimised.detach(), "amax")

    def _compute(self, box: Box, c: Tensor | None, method: str, **options: Any) -> Tensor:
        lirpa = _compat.load()
        lower, upper = self.input_box(box)
        ptb = lirpa.PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper)
        return self.bounded.compute_bounds(
            x=(lirpa.BoundedTensor(lower, ptb),),
            C=c,
            method=METHODS[method],
            bound_upper=False,
            **options,
        )[0]

    def _intermediate_bounds(self) -> dict[str, list[Tensor]]:
        """The last pass's bounds before every ReLU, by node, as auto_LiRPA takes them."""
        before = [n.inputs[0] for n in relu_nodes(self.bounded)]
        return {n.name: [n.lower, n.upper] for n in before}

    def _normalised(self, x: Tensor) -> Tensor:
        return x if self.normalise is None else self.normalise(x)


def as_bounded_net(net: object) -> BoundedNet:
    """``net`` itself, or a BoundedNet over the auto_LiRPA BoundedModule that it is."""
    if isinstance(net, BoundedNet):
        return net
    if isinstance(net, nn.Module) and isinstance(net, _compat.load().BoundedModule):
        return BoundedNet(net)
    raise InputError(
        f"expected a BoundedNet or an auto_LiRPA BoundedModule, got {type(net).__name__}; "
        "wrap the model first: BoundedNet(model, example)"
    )


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())


def _places(module: nn.Module, shared: list[Tensor]) -> list[tuple[dict[str, Any], str, Any]]:
    """(table, name, value) of every submodule, and of the tensors that are ``shared``."""
    wanted = {id(t) for t in shared}
    return [
        (table, name, value)
        for m in module.modules()
        for table in (m._modules, m._parameters, m._buffers)
        for name, value in table.items()
        if table is m._modules or id(value) in wanted
    ]


def _check_example(example: Tensor) -> None:
    check_tensor(example, "the example")
    if example.ndim < 2 or example.numel() == 0:
        raise InputError(
            f"the example has shape {tuple(example.shape)}; expected a batch of inputs, (N, ...)"
        )


def check_method(method: str) -> None:
    """Refuse a name that is not in METHODS."""
    check_name(method, "method", METHODS)


def check_compiler() -> None:
    """DependencyError, in one line, where torch.compile cannot compile anything."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(2))
    except Exception as error:  # torch names no common class for what can go wrong here
        raise DependencyError(
            f"torch.compile does not work here ({type(error).__name__}: {reason(error)}); it "
            "needs a C++ compiler; train without --compile"
        ) from error
