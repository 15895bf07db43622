"""Certification of single inputs: stages, cheapest first, each on what is still open."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import distributed
from ..attacks import PGD
from ..bounds.arithmetic import check_arithmetic
from ..bounds.box import Ball
from ..bounds.checks import (
    Range,
    Scalar,
    check_count,
    check_fits,
    check_range,
    check_seconds,
    check_within,
)
from ..bounds.inputs import check_labelled, outside_inference, taking_data
from ..bounds.net import BoundedNet, as_bounded_net
from ..bounds.norms import check_norm
from ..bounds.precision import full_precision
from ..bounds.radius import check_shared_radius, radius_words
from ..bounds.selfcheck import check_rows_alone
from ..errors import InputError, expect, require
from .cascade import Cascade
from .certificates import Certificates
from .crown.proofs import Proofs
from .engines import find_engine
from .identity import subjects
from .memory import allocations_fail_cleanly
from .second_opinion import check_by_attack
from .stages import Limits, stages_up_to
from .unfinished import Unfinished

#: Inputs whose logits are computed alone as well; the others' in smaller batches.
_CHECKED = 4


@outside_inference
@taking_data
def certify(
    net: object,
    x: Tensor,
    y: Tensor,
    eps: Scalar,
    *,
    method: str = "alpha-crown",
    attack: PGD | None = None,
    time_limit: float = 10.0,
    group_size: int = 1,
    known: Tensor | None = None,
    clip: Range | None = None,
    batch_size: int = 256,
    progress: bool | None = None,
    announce: Callable[[str], object] = lambda stage: None,
    unfinished: Unfinished | None = None,
    proofs: Proofs | None = None,
    norm: float = math.inf,
    arithmetic: str = "real",
) -> Certificates:
    """Try to prove each input's class on its ε-box by every stage up to ``method``.

    Each stage runs only on the correctly classified inputs that no cheaper one proved and that no
    attack broke. With an ``attack``, a few steps on each of the margins with the lowest bounds come
    before CROWN, and the attack itself before α-CROWN, or at the end where these do not run.

    A proof is a margin bound above a threshold that covers float32 rounding, or a positive
    one in float64; TF32 and autocast are off and BatchNorm in eval mode. Networks of affine
    layers and ReLU are bounded by this package's dual engine, which gives the bounds of
    auto_LiRPA's methods in a fraction of their time; all others by auto_LiRPA, and without
    ``bab``.

    Args:
        net: A BoundedNet, or an auto_LiRPA BoundedModule.
        x: (N, ...) inputs.
        y: (N,) labels.
        eps: Radius of the boxes in pixels, a number or a tensor that broadcasts to one input.
        method: The last stage, one of ``STAGES``. ``bab`` is branch and bound, which decides
            easy inputs first.
        attack: What is tried on open inputs; None for no attacks.
        time_limit: Seconds for each group that has open inputs, of the attack and all stages
            together. What is not proved by then stays open. A stage leaves half of the time
            that it finds to the later ones, and a batch gets half a second at least.
        group_size: Consecutive inputs that make a group.
        known: (N,) verdicts from elsewhere, taken as they are: 1 proved (its stage is
            ``imported``), -1 attacked, 0 unknown.
        clip: Range that perturbed inputs are cut to.
        batch_size: Inputs that go through the stages together.
        progress: Whether a bar shows how many inputs are done; None for yes in terminals and
            notebooks.
        announce: Receives the name of each stage as it begins, unless the bar shows it.
        unfinished: What an earlier call has left that was stopped, of these very inputs, at most
            ``batch_size``; what is found is put there as it is found.
        proofs: Receives what the dual engine proves of these inputs; for norm inf.
        norm: That perturbations are measured in: inf, or 2 for ‖u‖₂ <= ε, which takes one ε and
            a network of piecewise linear layers with ReLU.
        arithmetic: What a proof is about: the network in ``real`` numbers, or, for networks of
            piecewise linear layers, as a device computes it in ``float32``, in any order of sums.

    Returns:
        What was proved, and by which stage.

    Raises:
        InputError: A value cannot be used.
        ModelError: The network cannot be bounded at all, or its logits are not those of the
            graph that is bounded, or depend on the rest of a batch.
        SoundnessError: ``attack`` breaks what ``known`` has as proved, or a brief attack what
            auto_LiRPA's bounds alone have proved.
    """
    net = as_bounded_net(net)
    ball = check_certifiable(net, x, y, eps, clip, time_limit, norm, proofs)
    check_computed(arithmetic, x, known)
    check_count(group_size, "group size")
    check_attack(attack, ball, attack is None or callable(attack), "PGD() or None")
    stages, parts = stages_up_to(method), []
    _check_begun(known, unfinished, y, batch_size)
    if unfinished is not None:
        unfinished.keep_to(ball, arithmetic)
    hidden = not distributed.draws_bar(progress)
    with working(net, x.device, total=len(x), unit="image", disable=hidden) as bar:
        tell = _both(bar.set_description, announce)
        engine = find_engine(net, ball, proofs, arithmetic)
        if len(x):
            check_rows_alone(net, x[:_CHECKED])
        cascade = Cascade(net, ball, engine, stages, attack, Limits(time_limit, batch_size), tell)
        for rows in torch.arange(len(x), device=x.device).split(batch_size):
            verdicts = None if known is None else known[rows]
            part = cascade.certificates(x[rows], y[rows], rows // group_size, verdicts, unfinished)
            if len(rows):
                check_by_attack(engine, part, x[rows], y[rows], int(rows[0]), batch_size)
            parts.append(part)
            bar.update(len(rows))
    found = Certificates.cat(parts)
    return replace(found, subjects=subjects(net.module, x, y), arithmetic=arithmetic)


def _both(
    first: Callable[[str], object], second: Callable[[str], object]
) -> Callable[[str], object]:
    """Return a function that passes the name of a stage on to both."""

    def tell(stage: str) -> None:
        first(stage)
        second(stage)

    return tell


def check_certifiable(
    net: BoundedNet,
    x: Tensor,
    y: Tensor,
    eps: Scalar,
    clip: Range | None,
    time_limit: float,
    norm: float,
    proofs: Proofs | None,
) -> Ball:
    """Return the perturbations; refuse what could not be proved, or wrongly.

    float32 is the least precision that the rounding threshold covers.

    Raises:
        InputError: The images, labels, radius, range, limit or norm are impossible, or do not fit.
    """
    check_labelled(net, x, y, least=0)
    eps = check_shared_radius(eps, x)
    if x.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"inputs and network are {x.dtype}, whose rounding no certificate covers; use "
            "torch.float32 or torch.float64"
        )
    check_range(clip)
    check_fits(clip, x[:1], "clip")  # of all images alike: bounds of tuples rest on it
    check_within(x, clip)
    _warn_of_units(net, x, eps, clip)
    check_seconds(time_limit)
    norm = check_norm(norm, eps)
    require(proofs is None or norm == math.inf, "proofs are of norm inf; leave them out")
    return Ball(eps, clip, norm)


def check_computed(arithmetic: str, x: Tensor, known: Tensor | None = None) -> None:
    """Refuse an unknown arithmetic, and float32 for other inputs or with ``known`` verdicts."""
    check_arithmetic(arithmetic)
    if arithmetic == "float32":
        single = f"arithmetic float32 is of networks in it; inputs are {x.dtype}: use real"
        require(x.dtype == torch.float32, single)
        others = "verdicts of others are of real numbers; leave out known, or use arithmetic real"
        require(known is None, others)


def _warn_of_units(net: BoundedNet, x: Tensor, eps: Scalar, clip: Range | None) -> None:
    """Warn once where ε may be meant in pixels and is taken in the units of normalised images."""
    if clip is not None or x.ndim != 4 or not len(x):  # tables have no pixels
        return
    low, high = map(float, x.detach().aminmax())
    if low < 0 or high > 1 + torch.finfo(torch.float32).eps:
        net.warn_once(
            f"images range from {low:.4g} to {high:.4g}, so that ε = {radius_words(eps, 4)} is in "
            "their units, not in pixels from 0 to 1: pass pixels and put citrus_lirpa.models."
            "Normalise(mean, std) in front of the model, or pass clip, the range of these images"
        )


def check_attack(attack: object, ball: Ball, usable: bool, expected: str) -> None:
    """Raise InputError unless an attack is usable, and not one of ours in another norm."""
    expect(usable, "the attack", attack, expected)
    norm = getattr(attack, "norm", ball.norm)
    expect(norm == ball.norm, "the attack's norm", norm, f"{ball.norm:g}, the certificates'")


@contextmanager
def working(net: BoundedNet, device: torch.device, **options: Any) -> Iterator[tqdm]:
    """Certify with a network inside the block: in eval mode, in full precision, once it is checked.

    Args:
        net: The network.
        device: Where it is.
        **options: Of the bar of progress, which the block gets.
    """
    with (
        tqdm(**options) as bar,
        net.evaluating(),
        full_precision(device),
        allocations_fail_cleanly(device),
    ):
        net.check_itself()
        yield bar


def _check_begun(
    known: Tensor | None, unfinished: Unfinished | None, y: Tensor, batch_size: int
) -> None:
    """Refuse verdicts from elsewhere, and what an earlier call left, that do not fit the inputs."""
    check_count(batch_size, "batch size")
    if known is not None:
        whole = isinstance(known, Tensor) and known.dtype == torch.int64 and not known.is_meta
        usable = whole and known.shape == y.shape and not bool((known.abs() > 1).any())
        wanted = f"torch.int64 of shape ({len(y)},): 1 proved, -1 attacked, 0 unknown"
        expect(usable, "known", known, wanted)
    fits = unfinished is None or (isinstance(unfinished, Unfinished) and len(y) <= batch_size)
    expect(fits, "unfinished", unfinished, f"Unfinished() of at most {batch_size} inputs, or None")
