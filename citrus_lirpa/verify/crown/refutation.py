"""Proofs that a combination of margins breaks nothing, by linear programs and splits.

The relaxation of a program is solved, and where its value does not suffice a ReLU that its
solution violates is split. By linear duality the weights of its rows are slopes and multipliers of
a dual bound as tight. That bound, in float64 and less its rounding, is the proof: it holds wherever
these numbers come from, and is written to files like any other.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...bounds.box import Ball
from ...bounds.deadline import time_is_over
from .pool import Domains
from .program import Program
from .reduced_dual import ReducedBound
from .reduced_tuple import ReducedTuple

#: The least weight of a member: programs without solutions may give it none.
_LEAST_WEIGHT = 1e-6


def refuted(
    program: Program,
    network: ReducedTuple,
    ball: Ball,
    row: Tensor,
    least: float,
    dtype: torch.dtype,
) -> Domains | None:
    """Return proved domains, one of which holds for every perturbation; None if some is not proved.

    Args:
        program: The program of the combination.
        network: The tuple, in float64.
        ball: The perturbations, of norm inf and not clipped.
        row: (s,) the margins.
        least: What bounds must exceed.
        dtype: The type of the domains' parameters.
    """
    leaves, waiting = list[Domains](), [program]
    while waiting and not time_is_over():
        part = waiting.pop()
        t, x, weights = part.relaxation()
        found = leaf(part, network, ball, row, weights, dtype) if t > 0 else None
        if found is not None and float(found.value) > least:
            leaves.append(found)
            continue
        halves = part.halves(x, weights)
        if not halves:
            return None
        waiting += halves
    return None if waiting else Domains.cat(leaves)


def leaf(
    program: Program,
    network: ReducedTuple,
    ball: Ball,
    row: Tensor,
    weights: np.ndarray,
    dtype: torch.dtype,
) -> Domains:
    """Return a domain whose parameters are made of weights of rows, and its bound.

    Args:
        program: The program, whose splits the domain has.
        network: The tuple, in float64.
        ball: The perturbations.
        row: (s,) the margins.
        weights: (R,) the weights of its rows, at least 0.
        dtype: The type of the parameters.
    """
    signs, *parts = (
        torch.from_numpy(part).unsqueeze(0).to(row.device)
        for part in (program.signs, *program.multipliers(weights))
    )
    signs, multipliers = signs[:, network.order], parts[0][:, network.order]
    margins = parts[1].clamp(min=_LEAST_WEIGHT)
    dual = ReducedBound(network, ball, row.unsqueeze(0), signs)
    parameter = dual.parameter(multipliers / margins[:, network.member]).to(dtype)
    logits = margins.log().to(dtype)
    value = dual.guaranteed(parameter.double(), logits.double().softmax(1))
    none = torch.full_like(row[:1], -1)
    return Domains(row.unsqueeze(0), signs.to(torch.int8), parameter, logits, value, none)
