"""BoundedNet: sound bounds of a classifier over boxes of pixels, through auto_LiRPA."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DependencyError, InputError, ModelError, foreign, require
from . import lirpa
from .allowed import refusal
from .attacked import attacked_network
from .box import Bounds, Box, Interval, RoundBox, check_box
from .checks import check_labels, check_name
from .cutting import affine_segments
from .frozen import Frozen, freeze
from .interval import IntervalNetwork, margin_bounds
from .lirpa_bounds import METHODS as METHODS
from .lirpa_bounds import LirpaNetwork, magnitudes, watching_the_clock
from .margins import specification
from .precision import full_precision
from .segments import Segment
from .selfcheck import self_check
from .traced import TracedModule
from .unwrapping import unwrapped

#: Whose bounds count: this package's own where it knows all layers, or auto_LiRPA's alone.
BOUNDS = ("own", "auto-lirpa")


class BoundedNet(TracedModule):
    """A classifier together with the means to bound it.

    ``BoundedNet(model, example)`` wraps an ``nn.Module`` that maps images (N, ...) to logits
    (N, K). ``BoundedNet(bounded_module)`` uses an existing auto_LiRPA BoundedModule, which is
    checked when something is first certified.

    The user's module stays the single truth: parameters *and* BatchNorm statistics are shared
    with it, bounds follow its layers' training modes, its ``requires_grad`` flags are kept, and
    its ``state_dict`` is the one to save. Copies and pickles wrap it again. Losses and bounds are
    of the network without Dropout. Threads take turns. DataParallel and torch.compile around the
    module are taken off, and the softmax that a Sequential ends with, which changes no class: what
    is called and bounded are its logits. A leading :class:`~.models.Normalise` is applied to the
    boxes exactly, outside auto_LiRPA. Wrapping checks that the traced graph computes the same
    function and that its bounds contain it. Move the model to its device before wrapping it.

    In train mode with BatchNorm, call ``net(x)`` on the clean batch first: its batch statistics,
    with gradient, are those that the following bounds use.

    Args:
        model: The classifier, or an auto_LiRPA BoundedModule of it.
        example: One batch of inputs of the right shape, dtype and device.
        bounds: Whose bounds are used, one of BOUNDS: ``own`` takes this package's for networks of
            piecewise linear layers, ``auto-lirpa`` those of auto_LiRPA everywhere.

    Attributes:
        module: The user's module, without a softmax that it ends with.
        bounded: auto_LiRPA's BoundedModule of it.
        normalise: The leading Normalise layer, or None.
        classes: Number of classes K.
        graph: The traced graph.
        fast: The fast interval network, or None where auto_LiRPA computes all bounds.
        attacked: The same with all layers that proofs know, for attacks; None where it has others.
        attack_dtype: What ``frozen`` computes in; None for the type of the inputs.

    Raises:
        InputError: The model or the example is not one.
        ModelError: auto_LiRPA cannot bound the model, the traced graph or its bounds contradict
            it, its forward looks at its data, or its logits depend on the rest of a batch.
    """

    def __init__(self, model: nn.Module, example: Tensor | None = None, *, bounds: str = "own"):
        check_name(bounds, "bounds", BOUNDS)
        self.bounds = bounds
        super().__init__(model, example)
        self.fast = IntervalNetwork.of(self.graph) if bounds == "own" else None
        self.attacked = self.fast
        if bounds == "own" and self.fast is None:
            self.attacked = attacked_network(self.graph)
        self.lirpa = LirpaNetwork(self.bounded, self.graph)
        self._refusals: dict[str, str | None] = {}
        self._warned: set[str] = set()
        self.attack_dtype: torch.dtype | None = None
        self._checked = False
        if example is not None:
            self_check(self, example)
            self._checked = True

    def __repr__(self) -> str:
        parameters = self.parameters()
        relus = f"{self.relus} ReLU layer{'' if self.relus == 1 else 's'}"
        return (
            f"BoundedNet({self.input_shape} -> {self.classes} classes, {relus}, "
            f"{sum(p.numel() for p in parameters):,} parameters on {parameters[0].device}, "
            f"{'train' if self.training else 'eval'} mode)"
        )

    def frozen(self) -> Frozen:
        """Return the network as it is now and in eval mode, for the many steps of an attack.

        Call it inside ``evaluating``, and again once the weights have changed.

        Returns:
            A function from inputs (N, ...) to logits (N, K) of their type, differentiable in
            the inputs alone; the network itself where ``attacked`` is None. It computes in
            ``attack_dtype``, where that is not None.
        """
        if self.attacked is None or self._normed:
            return Frozen(self._rounded_logits)
        return freeze(self.attacked, self.normalise, self.input_shape, self.attack_dtype)

    def _rounded_logits(self, x: Tensor) -> Tensor:
        rounds = self.attack_dtype is not None
        with torch.autocast(x.device.type, self.attack_dtype, enabled=rounds):
            return self(x).to(x.dtype)

    def compile(self) -> None:
        """Let torch.compile make kernels of interval bounds, and on a GPU of ``frozen`` too.

        On a CPU convolutions are as fast as they can be without. The first calls take half a
        minute or more. Nothing is compiled where auto_LiRPA bounds the network.

        Raises:
            DependencyError: torch.compile does not work, as without a C++ compiler.
        """
        check_compiler()
        if self.fast is not None:
            self.fast.compile(self.parameters()[0].is_cuda)

    def check_itself(self) -> None:
        """Raise ModelError where the traced graph contradicts the module, unless wrapping did."""
        if not self._checked:
            self_check(self, self._example())
            self._checked = True

    def bound(self, box: Box, labels: Tensor | None = None, method: str = "ibp") -> Bounds:
        """Bound the margins and all inputs of ReLUs over boxes, in one pass.

        For every x in box n, margin(x) >= bound, up to float32 rounding. ``ibp``, ``crown-ibp``
        and ``crown`` are differentiable in the weights (``crown`` is tighter under
        ``torch.no_grad``). ``alpha-crown`` optimises the relaxation of margins that CROWN
        cannot prove positive; its margins are detached, and ``.grad`` is left alone.

        Args:
            box: N boxes, in pixels.
            labels: (N,) labels; None for no margins.
            method: A name in METHODS.

        Raises:
            InputError: The box, the labels or the method do not fit.
            ModelError: The layers do not allow the method, auto_LiRPA's bounds of one are not known
                to be sound, or the module's weights are no longer those that were wrapped.
        """
        check_method(method)
        check_box(box, self.input_shape, self.like)
        if labels is not None:
            check_labels(labels, self.classes)
            alike = f"{len(box)} boxes but {len(labels)} labels; give as many"
            require(len(labels) == len(box), alike)
        self.check_sound(method)
        with self.in_use(), full_precision(box.lower.device):
            return self.bound_unchecked(box, labels, method)

    def in_time(self) -> AbstractContextManager[None]:
        """Have bounds by CROWN raise OutOfTime at a deadline (:mod:`.deadline`), inside a block."""
        return watching_the_clock(self.bounded)

    def check_sound(self, method: str) -> None:
        """Raise ModelError where bounds by a method prove nothing, as they are not known sound."""
        if (why := self.doubt_of(method)) is not None:
            raise ModelError(why)

    def doubt_of(self, method: str) -> str | None:
        """Return why bounds by a method prove nothing; None where they do."""
        if method == "ibp" and self.fast is not None:
            return None
        if method not in self._refusals:
            self._refusals[method] = refusal(self.graph, method)
        return self._refusals[method]

    def warn_once(self, message: str) -> None:
        """Warn the user of this network, if it is the first time."""
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, stacklevel=4)

    def bound_unchecked(
        self, box: Box, labels: Tensor | None = None, method: str = "ibp"
    ) -> Bounds:
        """Do what ``bound`` does, for callers that have checked the batch and are ``in_use``."""
        self._check_normed()
        with torch.autocast(box.lower.device.type, enabled=False):
            return self._bound(box, labels, method)

    def _bound(self, box: Box, labels: Tensor | None, method: str) -> Bounds:
        inputs = self.input_box(box)
        if method == "ibp" and self.fast is not None:
            return self._bound_by_intervals(self.fast, box, inputs, labels)
        if isinstance(box, RoundBox):
            raise ModelError(f"ℓ2 balls are bounded by this package's IBP, not {method}; use ibp")
        c = None if labels is None else specification(labels, self.classes, box.lower.dtype)
        found = self.lirpa.bounds(inputs, c, method, self.parameters())
        before: Sequence[Box | Interval] | None = found.before
        if before is None:
            before = () if method == "ibp" else self.bound_unchecked(box).relu_inputs
        return Bounds(
            box,
            None if labels is None else found.lower,
            Interval.of(inputs),
            before,
            lambda: magnitudes(self.graph, found.within),
        )

    def _bound_by_intervals(
        self, fast: IntervalNetwork, box: Box, before: Box, labels: Tensor | None
    ) -> Bounds:
        weights, inputs = fast.weights(), Interval.of(before)
        ball = before.round if isinstance(before, RoundBox) else None
        intervals, last = fast.intervals(weights, inputs, ball)

        def measure() -> list[Tensor]:
            return [fast.largest_terms(inputs, [i.box() for i in intervals])]

        if labels is None:  # by their ends, whose rounding trained weights depend on
            return Bounds(box, None, inputs, [i.box() for i in intervals], measure)
        alone = ball is not None and fast.first[0] == len(fast.steps) - 1
        entering = fast.entering(ball) if alone and ball is not None else None
        margins = margin_bounds(weights[-1], last, labels, entering)
        return Bounds(box, margins, inputs, intervals, measure)

    def margins(self, box: Box, y: Tensor, method: str = "ibp") -> Tensor:
        """Return (N, K-1) lower bounds of logit_y - logit_c over each box, c != y ascending.

        ``bound(box, y, method).margins``: see :meth:`bound` for arguments and errors.
        """
        if y is None:
            check_labels(y, self.classes)  # margins are those of labels
        return self.bound(box, y, method).margins

    def preactivation_bounds(self, box: Box) -> list[Box]:
        """Return IBP's bounds on the input of every ReLU over ``box``, in network order."""
        return self.bound(box).preactivation_boxes

    def input_interval(self, box: Box) -> Interval:
        """Return ``input_box`` as centre and radius."""
        return Interval.of(self.input_box(box))

    def largest_terms(self, box: Box, before: list[Box]) -> Tensor | None:
        """Return the largest sums of absolute values that layers add up: what rounds.

        Args:
            box: N boxes, in pixels.
            before: Bounds of the inputs of ReLUs to go by, in network order.

        Returns:
            (N,) the largest sum of any layer, or None where auto_LiRPA bounds the network.
        """
        if self.fast is None:
            return None
        return self.fast.largest_terms(self.input_interval(box), before)

    def affine_segments(self) -> list[Segment]:
        """Return the network as affine maps between ReLUs, of pixels.

        Raises:
            ModelError: The network has operations that are not piecewise linear, or bounds of
                auto_LiRPA were asked for.
        """
        if self.bounds != "own":
            raise ModelError("auto_LiRPA's bounds do not branch; wrap with bounds='own'")
        self._check_normed()
        dtype = torch.get_default_dtype() if self.like is None else self.like.dtype
        return affine_segments(self.graph, self.normalise, dtype)

    def in_float64(self) -> BoundedNet | None:
        """Return a copy in double precision; None where only a BoundedModule is known."""
        if self.module is self.bounded or self.like is None:
            return None
        model, example = copy.deepcopy(self.module).double(), self._example().double()
        return BoundedNet(model, example, bounds=self.bounds)

    def __reduce__(self) -> tuple[Callable[..., BoundedNet], tuple[Any, ...]]:
        """Let copies and pickles be of the module alone, which they wrap again."""
        if self.module is self.bounded:
            raise ModelError(
                "auto_LiRPA's BoundedModule can be neither copied nor pickled; copy or save your "
                "own module, and wrap it again"
            )
        return partial(BoundedNet, bounds=self.bounds), (self.module, self._example())


def as_bounded_net(net: object) -> BoundedNet:
    """Return ``net`` itself, or a BoundedNet over the auto_LiRPA BoundedModule that it is.

    Raises:
        InputError: It is neither.
    """
    if isinstance(net, BoundedNet):
        return net
    net = unwrapped(net)
    if isinstance(net, nn.Module) and isinstance(net, lirpa.load().BoundedModule):
        return BoundedNet(net)
    raise InputError(
        f"expected a BoundedNet or an auto_LiRPA BoundedModule, got {type(net).__name__}; "
        "wrap the model first: BoundedNet(model, example)"
    )


def check_method(method: str) -> None:
    """Raise InputError unless ``method`` is a name in METHODS."""
    check_name(method, "method", METHODS)


def check_compiler() -> None:
    """Raise DependencyError, in one line, where torch.compile cannot compile anything."""
    fix = "it needs a C++ compiler; train without --compile"
    with foreign(DependencyError, "torch.compile does not work here", fix):
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(2))
