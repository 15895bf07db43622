"""COLT: adversarial training inside a convex relaxation, layer by layer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import distributed
from ..attacks import ascend
from ..attacks.pgd import check_step_size, uniform_start
from ..bounds.box import PIXELS, Ball
from ..bounds.checks import Range, Scalar, check_count, is_count, is_number, is_positive
from ..bounds.frozen import gradient_of
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.segments import Segment
from ..bounds.zonotope import RelaxedLayers, Zonotope, relax
from ..errors import expect
from .base import POINT_RADIUS, Loss, LossTerms, Stage, repeated
from .taps import relus_before


class Colt(Loss):
    """Cross-entropy at points that an attack finds in a zonotope between two layers.

    Stage l freezes the layers up to the l-th ReLU and bounds what they make of the ε-box by a
    zonotope. The attack moves the zonotope's error terms, so that it stays inside, and the layers
    behind are trained on what it finds; stage 0 is PGD on the input. In the first part of a stage
    this loss fades in, and that of the stage before (clean inputs in stage 0) fades out. While
    layers can still be stabilised, it adds the mean sum of relu(-l)·relu(u) over the bounds l, u of
    the inputs of the next ReLU, which is to be frozen.

    ``begin_step`` chooses the stage; all stages are equally long. The zonotopes' widths are
    estimates by random projections, so nothing is certified while it trains. A network that is no
    chain of affine layers and ReLU up to the split raises InputError or ModelError.

    Source: Balunović & Vechev 2020, Adversarial Training and Provable Defenses: Bridging the Gap,
    algorithm 1 and section 4.

    Args:
        split: ReLUs that are frozen in the last stage, counted from the end if negative: -1
            leaves one ReLU behind the last zonotope.
        natural: Weight of the cross-entropy of clean inputs, beside 1 - ``natural`` of the attack.
        mix: Share of a stage in which its loss fades in.
        halvings: How often the learning rate is halved in the rest of a stage.
        stage_rate: Factor of the learning rate from stage to stage.
        eps_growth: Factor of ε from a stage to the one before it; the last one has ε itself.
        stable: Weight of relu(-l)·relu(u).
        stable_growth: Factor of this weight from stage to stage.
        projections: Random projections for each width; 0 for exact ones, in much memory.
        attack_steps: Gradient steps on the error terms.
        attack_step_size: Length of a step, where error terms are from -1 to 1.
        clip: Valid range of the inputs; None for no limits.
    """

    needs_ramp = False  # its losses fade in, stage by stage

    def __init__(
        self,
        *,
        split: int = -1,
        natural: float = 0.0,
        mix: float = 0.3,
        halvings: int = 14,
        stage_rate: float = 0.75,
        eps_growth: float = 1.1,
        stable: float = 0.005,
        stable_growth: float = 1.5,
        projections: int = 50,
        attack_steps: int = 8,
        attack_step_size: float = 0.25,
        clip: Range | None = PIXELS,
    ):
        super().__init__(clip)
        expect(is_count(split, -(2**31)), "split", split, "a whole number of ReLUs")
        for name, share in (("natural", natural), ("mix", mix)):
            expect(is_number(share) and 0 <= share < 1, name, share, "a share in [0, 1)")
        for name, factor in (
            ("stage_rate", stage_rate),
            ("eps_growth", eps_growth),
            ("stable_growth", stable_growth),
        ):
            expect(is_number(factor) and factor > 0, name, factor, "a factor > 0")
        expect(is_number(stable) and stable >= 0, "stable", stable, "a weight >= 0")
        check_count(halvings, "halvings", 0)
        check_count(projections, "projections", 0)
        check_count(attack_steps, "attack_steps")
        check_step_size(attack_step_size)
        self.split, self.natural, self.mix, self.halvings = split, natural, mix, halvings
        self.stage_rate, self.eps_growth = stage_rate, eps_growth
        self.stable, self.stable_growth = stable, stable_growth
        self.projections = projections
        self.attack_steps, self.attack_step_size = attack_steps, attack_step_size
        self._stage = 0
        self._faded_in: Scalar = 0.0
        self._fading: Tensor | None = None  # a scalar on a GPU, where CUDA graphs read it

    def check_net(self, net: BoundedNet) -> None:
        """Raise InputError or ModelError if the network cannot be split in such layers."""
        last = relus_before(self.split, net)
        net.chain(last)
        net.tail(last - 1)

    def forward(self, net: object, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of a batch as :meth:`Loss.forward`, after a check of the split."""
        net = as_bounded_net(net)
        self.check_net(net)  # at the first call, while ε may still be 0
        return super().forward(net, x, y, eps)

    def begin_step(self, net: BoundedNet, done: float, eps: float) -> Stage:
        """Go to the stage at a share of the training."""
        stages = relus_before(self.split, net) + 1
        self._stage = min(int(done * stages), stages - 1)
        share = done * stages - self._stage
        faded_in = min(1.0, share / self.mix) if self.mix else 1.0
        drops = max(0, int((share - self.mix) / (1 - self.mix) * self.halvings))
        rate = self.stage_rate**self._stage * 0.5**drops
        fading = 0 < faded_in < 1
        self._faded_in = self._on_gpu(net, faded_in) if fading else faded_in
        step = repeated(self, self._stage, "fading" if fading else faded_in)
        return replace(step, rate=rate, frozen=_weights(net.chain(self._stage)))

    def _on_gpu(self, net: BoundedNet, share: float) -> Scalar:
        """Return a share of a network on a GPU as a scalar there, always the same one."""
        like = net.parameters()[0]
        if not like.is_cuda:
            return share
        if self._fading is None or self._fading.device != like.device:
            self._fading = like.new_zeros(())
        return self._fading.fill_(share)

    def terms(self, net: BoundedNet, x: Tensor, y: Tensor, eps: Scalar) -> LossTerms:
        """Compute the loss of the points found behind the frozen layers."""
        last = relus_before(self.split, net)
        box = Ball(self.eps_growth ** (last - self._stage) * eps, self.clip).box(x)
        head = net.chain(self._stage)
        with _held(_weights(head)):
            logits = net(x)
            head, tail = net.chain(self._stage), _rest(net, self._stage)
            with torch.no_grad():
                layers, zonotope = relax(head, box, self.projections)
                points = self._points(net, layers, x, y)
            losses = [weight * F.cross_entropy(tail(z), y) for weight, z in points]
            total = torch.stack(losses).sum()
            if self.stable and self._stage < last:
                total = total + self._unstable(zonotope.through(net.chain(self._stage + 1)[-1]))
        return LossTerms(total, logits, Ball(POINT_RADIUS, self.clip).box(x))

    def _points(
        self, net: BoundedNet, layers: RelaxedLayers, x: Tensor, y: Tensor
    ) -> list[tuple[Scalar, Tensor]]:
        """Weights, and points behind the frozen layers: of this stage, the one before, clean."""
        share, attacked = self._faded_in, 1 - self.natural
        points: list[tuple[Scalar, Tensor]] = []
        clean = x
        for segment in layers.segments:
            clean = segment(clean).relu()
        if is_positive(share):
            points.append((attacked * share, self._attack(_rest(net, self._stage), layers, y)))
        if is_positive(1 - share):
            before = clean
            if self._stage:
                earlier = self._attack(_rest(net, self._stage - 1), layers.without_last(), y)
                before = layers.segments[-1](earlier).relu()
            points.append((attacked * (1 - share), before))
        return [*points, (self.natural, clean)] if self.natural else points

    def _attack(self, tail: Segment, layers: RelaxedLayers, y: Tensor) -> Tensor:
        """Find a point of each zonotope that the layers behind it misclassify."""
        tail = tail.frozen()
        like = layers.box.lower
        start = distributed.draw_rows(
            lambda rows: uniform_start((rows, layers.errors), like), len(like)
        )
        errors = ascend(
            gradient_of(lambda e: F.cross_entropy(tail(layers(e)), y, reduction="sum")),
            lambda e: e.clamp(-1, 1),
            start,
            self.attack_step_size,
            self.attack_steps,
            decay=(),
        )
        return layers(errors)

    def _unstable(self, zonotope: Zonotope) -> Tensor:
        """The term of the ReLU that the zonotope is in front of, weighted."""
        lower, upper = zonotope.box()
        product = F.relu(-lower) * F.relu(upper)
        weight = self.stable * self.stable_growth**self._stage * self._faded_in
        return weight * product.sum() / len(product)


def _rest(net: BoundedNet, stage: int) -> Segment:
    """The layers behind the frozen ones: from pixels in stage 0."""
    return replace(net.tail(stage - 1), normalise=net.normalise)


def _weights(segments: Sequence[Segment]) -> tuple[nn.Parameter, ...]:
    constants = [value for segment in segments for value in segment.constants.values()]
    return tuple(value for value in constants if isinstance(value, nn.Parameter))


@contextlib.contextmanager
def _held(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let no gradient reach these weights from what is computed inside the block."""
    trained = [weight for weight in weights if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
