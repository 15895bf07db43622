"""What every training loss is and returns, and the loss while ε is still zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks import PGD
from ..bounds.box import PIXELS, Ball, Bounds, Box
from ..bounds.checks import Range, Scalar, are_values_known, check_range
from ..bounds.margins import logit_margins, wrong_classes
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.norms import check_norm
from ..bounds.radius import largest
from ..bounds.selfcheck import OVERFLOW
from ..errors import expect, require
from .checks import check_batch

#: Radius of the boxes that stand in for points, where regularisers need bounds at ε = 0.
POINT_RADIUS = 1e-6

#: An attack: (net, x, y, eps) -> perturbations v, shaped as x.
Attack = Callable[[BoundedNet, Tensor, Tensor, Scalar], Tensor]


@dataclass(eq=False, repr=False)
class LossTerms(Tensor):
    """A loss, and what it was computed from: the scalar tensor ``total`` with more attributes.

    Results of operations on it are plain tensors.

    Args:
        total: Scalar to minimise, with graph.
        logits: (B, K) of the batch's forward pass, on the clean inputs, or on the perturbed ones
            for methods that train on nothing else; (B, 0) of a denoiser without a classifier.
        box: The boxes that were bounded, m for each input, or tiny ones around the inputs.
        margins: (B, m, K-1) lower bounds of the margins on these boxes, or given as (B·m, K-1);
            the margins of ``logits`` while ε is 0; None for a loss without bounds.
        perturbations: (P, ...) those tried on the batch; None without an attack.
        bounds: Bounds of the network on ``box`` and of the inputs of its ReLUs, for regularisers;
            None for a loss without bounds, where ``net.bound(box)`` computes them.
    """

    total: Tensor
    logits: Tensor
    box: Box
    margins: Tensor | None = None
    perturbations: Tensor | None = None
    bounds: Bounds | None = None

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __new__(cls, total: Tensor, *_: object, **__: object) -> LossTerms:
        """Make a view of ``total``, with its graph."""
        return total.as_subclass(cls)

    def __post_init__(self) -> None:
        if self.margins is not None:
            self.margins = self.margins.unflatten(0, (len(self.logits), -1)).flatten(1, -2)

    def __repr__(self) -> str:  # type: ignore[override]
        boxes = f", {100 * float(self.certified()):.2f} % certified"
        return (
            f"LossTerms(total {self.item():.4g}, {len(self.logits)} inputs, {len(self.box)} boxes"
            f"{'' if self.margins is None else boxes})"
        )

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def worst_logits(self, y: Tensor) -> Tensor:
        """Return the worst logits that the bounds allow, with their graph, for losses of your own.

        The label has 0, and each other class minus the lower bound of its margin. Their
        cross-entropy is that of :func:`robust_cross_entropy`.

        Args:
            y: (B,) the labels of the batch.

        Returns:
            (B, m, K), in the order of the classes.

        Raises:
            InputError: The loss has no margins.
        """
        require(self.margins is not None, "this loss bounds no margins; it has no worst logits")
        margins: Any = self.margins
        classes = wrong_classes(y, margins.shape[-1] + 1).unsqueeze(1).expand_as(margins)
        zeros = margins.new_zeros(*margins.shape[:2], margins.shape[-1] + 1)
        return zeros.scatter(2, classes, -margins)

    def certified(self) -> Tensor:
        """Return the share of boxes whose margins are all proved positive; NaN without margins."""
        if self.margins is None:
            return self.total.new_full((), torch.nan)
        return (self.margins.detach().amin(dim=2) > 0).float().mean()

    def certified_error(self) -> Tensor:
        """Return the share of inputs with a box that is not certified; NaN without margins."""
        if self.margins is None:
            return self.total.new_full((), torch.nan)
        return 1 - (self.margins.detach().amin(dim=(1, 2)) > 0).float().mean()


@dataclass(frozen=True)
class Stage:
    """What a step of a training in stages does.

    Args:
        rate: Factor of the learning rate.
        frozen: Weights that are not trained: no penalty is to move them either.
        graph: What the host decides in this step, apart from numbers on the GPU. Steps with the
            same value may be repeated as one CUDA graph; None for a step that may not.
    """

    rate: float = 1.0
    frozen: tuple[nn.Parameter, ...] = ()
    graph: Hashable = None


class Loss(nn.Module):
    """Base of all losses: ``loss(net, x, y, eps)`` checks the batch, then asks ``terms``.

    A loss with an attack takes any function (net, x, y, eps) -> v. It gives a :class:`PGD` its
    own valid range, whatever the ``clip`` of this PGD was (:meth:`choose_attack`).

    Args:
        clip: Valid range of the inputs: (0, 1) for pixels, tensors that broadcast to the inputs
            for normalised data, None for no limits.
        norm: The norm of the perturbations, inf or 2.
    """

    #: The attack of a loss that has one and is given none.
    default_attack: ClassVar[PGD] = PGD()
    #: Whether ε has to rise slowly, as where boxes are bounded.
    needs_ramp: ClassVar[bool] = True
    #: Whether the host decides the same in all its steps, so that a CUDA graph may repeat them.
    steps_alike: ClassVar[bool] = False

    def __init__(self, clip: Range | None = PIXELS, norm: float = math.inf):
        super().__init__()
        check_range(clip)
        self.clip, self.norm, self._step_eps = clip, check_norm(norm), 0.0

    def forward(self, net: object, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of a batch: plain cross-entropy while ``eps`` is 0, then ``terms``.

        Args:
            net: BoundedNet or the user's own BoundedModule, in train mode.
            x: Inputs (B, ...).
            y: Labels (B,).
            eps: Radius ε in pixels, a number or a tensor that broadcasts to ``x``.

        Returns:
            The loss; call its ``backward()`` once.

        Raises:
            InputError: A value cannot be used.
        """
        net = as_bounded_net(net)
        require(
            not torch.is_inference_mode_enabled(),
            "a training loss differentiates; leave torch.inference_mode(), or use torch.no_grad()",
        )
        with net.in_use():
            eps = check_batch(net, x, y, eps, self.clip)
            check_norm(self.norm, eps)
            _warn_of_units(net, eps, self.clip, self.norm)
            if are_values_known(eps) or bool(torch.as_tensor(eps).any()):
                terms = self.terms(net, x, y, eps)
                _warn(net, terms, getattr(self, "method", "ibp"))
                return terms
            terms = natural(net, x, y, self.clip)
            return replace(terms, margins=logit_margins(terms.logits, y))

    def extra_repr(self) -> str:
        """List the hyper-parameters, for ``repr``."""
        hidden = {"training", *(("norm",) if self.norm == math.inf else ())}
        public = {k: v for k, v in vars(self).items() if not (k.startswith("_") or k in hidden)}
        return ", ".join(f"{key}={value!r}" for key, value in public.items())

    def choose_attack(self, attack: Attack | None) -> Attack:
        """Return the attack of this loss: ``attack``, or the default of its class.

        A PGD gets the loss's ``clip`` and ``norm`` in place of its own: what it finds in another
        range could leave the ball once the loss has cut it. Any other function stays as it is.

        Raises:
            InputError: The attack is not a function.
        """
        attack = self.default_attack if attack is None else attack
        expect(callable(attack), "the attack", attack, "PGD() or another function")
        return attack.within(self.clip, self.norm) if isinstance(attack, PGD) else attack

    def check_net(self, net: BoundedNet) -> None:
        """Raise InputError or ModelError if this loss cannot train ``net``."""

    def check_batch_size(self, size: int) -> None:
        """Raise InputError if this loss cannot use batches of ``size`` inputs."""

    def begin_step(self, net: BoundedNet, done: float, eps: float) -> Stage:
        """Go to a point of the training; most losses are the same all along.

        Args:
            net: The network that is trained.
            done: Share of the training that is done, from 0 to 1.
            eps: ε of the step, the largest of any pixel.
        """
        self._step_eps = eps
        return repeated(self) if self.steps_alike else Stage()

    def largest_eps(self, eps: Scalar) -> float:
        """Return the largest ε of any pixel; on a GPU, the one that ``begin_step`` received."""
        return self._step_eps if are_values_known(eps) else largest(eps)

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of a batch that was checked, at a positive ε."""
        raise NotImplementedError


def _warn_of_units(net: BoundedNet, eps: Scalar, clip: Range | None, norm: float) -> None:
    """Warn once of an ε that moves pixels through their whole range, as one in grey levels does."""
    if norm == 2 or clip is None or any(isinstance(value, Tensor) for value in (eps, *clip)):
        return
    low, high = map(float, clip)
    if float(eps) > high - low:
        net.warn_once(
            f"ε is more than the whole range of the inputs, {low:g} to {high:g}: for 8 grey levels "
            "of pixels in [0, 1] write 8 / 255"
        )


def _warn(net: BoundedNet, terms: LossTerms, method: str) -> None:
    """Warn, once for a network, of bounds that prove nothing and of a loss that is not finite."""
    if terms.bounds is not None and (why := net.doubt_of(method)) is not None:
        net.warn_once(f"this loss trains on bounds that certify nothing: {why}")
    # a GPU would wait for the answer; there the training loop looks at it
    if terms.total.device.type == "cpu" and not bool(terms.total.isfinite()):
        net.warn_once(
            f"the loss is {terms.total.item()}, and its gradients are useless; {OVERFLOW}"
        )


def perturb(attack: Attack, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> Tensor:
    """Run ``attack`` on a batch that the loss has checked; a PGD does not check it again."""
    return attack.perturb(net, x, y, eps) if type(attack) is PGD else attack(net, x, y, eps)


def repeated(loss: Loss, *decided: Hashable) -> Stage:
    """Return the stage of a step that a CUDA graph may repeat, if a loss and its attack allow it.

    Classes and attacks of users may decide more on the host than is known here.

    Args:
        loss: The loss, with its ``attack``, if it has one.
        decided: What it decides on the host in this step.
    """
    own = type(loss).__module__.startswith(f"{__package__}.")
    known = type(getattr(loss, "attack", None)) in (PGD, type(None))
    return Stage(graph=decided) if own and known else Stage()


def natural(net: BoundedNet, x: Tensor, y: Tensor, clip: Range | None) -> LossTerms:
    """Compute plain cross-entropy, the loss before the ε ramp begins."""
    return at_points(net, x, x, y, clip)


def at_points(
    net: BoundedNet,
    x: Tensor,
    points: Tensor,
    y: Tensor,
    clip: Range | None,
    tried: Tensor | None = None,
) -> LossTerms:
    """Compute cross-entropy at points, one for each input, without bounds.

    Args:
        net: The network.
        x: Inputs (B, ...).
        points: Where the network is evaluated, shaped as ``x``.
        y: Labels (B,).
        clip: Valid range of the inputs.
        tried: (P, ...) the perturbations that gave the points.
    """
    logits = net(points)
    box = Ball(POINT_RADIUS, clip).box(x)
    return LossTerms(F.cross_entropy(logits, y), logits, box, perturbations=tried)
