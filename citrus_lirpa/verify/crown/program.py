"""Complete search on reduced networks, as a mixed-integer program, and its relaxations.

Let every unstable ReLU of a tuple's members have a binary d, which says whether it is on. What
breaks all members satisfies

    h >= z,   h <= z - lower (1 - d),   h <= upper d,   margin <= 0 of each member.

The variables lie in a box. Each of these is a row: what it says of the reduced network holds of the
network up to the error of folding.

HiGHS decides the program up to tolerances, so its word proves nothing: what breaks the members has
to do so on the network, and :mod:`.refutation` makes proofs of the dual values of relaxations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...bounds.box import Ball
from .reduced import ReducedNetwork

#: The integer search ends at a t whose distance from the bound of t is at most so many times |t|:
#: at any negative one that is not so near 0 that it may be rounding.
_GAP = 1e3
#: How SciPy says that a program has no solution.
_INFEASIBLE = 2
#: What a ReLU must be violated by to be split.
_VIOLATED = 1e-5
#: The weight that a ReLU counts with where its upper rows have none, as a share of the largest.
_LEAST_SHARE = 1e-3


class Answer(NamedTuple):
    """What HiGHS says of a program.

    Attributes:
        u: (...) what may break all members; None where nothing was found.
        impossible: Whether nothing can, by its word.
    """

    u: Tensor | None
    impossible: bool


@dataclass(frozen=True)
class Program:
    """Rows matrix x - share t <= upper, in float64, with least <= x <= most; t is minimised.

    Args:
        matrix: (R, N), sparse. The last P columns are pixels of u / ε.
        share: (R,) 1 for margins, 0 for other rows.
        upper: (R,).
        least: (N,).
        most: (N,).
        binary: (N,) 1 for binaries.
        inputs: (M, N) w of every unstable ReLU, sparse.
        bias: (M,) b of these.
        outputs: (M,) the columns of their h; those of d are M places further for each member.
        switches: (M,) the columns of their d.
        eps: (P,) the radius of each pixel.
        shape: Of an image.
    """

    matrix: Any
    share: np.ndarray
    upper: np.ndarray
    least: np.ndarray
    most: np.ndarray
    binary: np.ndarray
    inputs: Any
    bias: np.ndarray
    outputs: np.ndarray
    switches: np.ndarray
    eps: np.ndarray
    shape: torch.Size

    @staticmethod
    def of(networks: Sequence[ReducedNetwork], ball: Ball, rows: Sequence[int]) -> Program:
        """Return the program of a combination of margins, one of each member.

        Args:
            networks: The members, in float64.
            ball: The perturbations, of norm inf and not clipped.
            rows: (s,) the margins.
        """
        from scipy import sparse

        image = networks[0].x
        eps = _numpy((ball.radius(image) * torch.ones_like(image)).flatten())
        parts = [_member(n, eps, row) for n, row in zip(networks, rows, strict=True)]
        own, inputs = (
            sparse.block_diag([getattr(part, name) for part in parts]) for name in ("own", "inputs")
        )
        pixels, x = (
            sparse.vstack([getattr(part, name) for part in parts]) for name in ("pixels", "x")
        )
        share, upper, most, bias = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("share", "upper", "most", "bias")
        )
        sizes = np.array([len(network) for network in networks])
        outputs = np.arange(len(bias)) + np.repeat(sizes.cumsum() - sizes, sizes)
        switches = outputs + np.repeat(sizes, sizes)
        binary = np.zeros(len(most) + len(eps))
        binary[switches] = 1.0
        return Program(
            *(sparse.hstack([own, pixels]).tocsr(), share, upper),
            least=np.r_[np.zeros(len(most)), -np.ones(len(eps))],
            most=np.r_[most, np.ones(len(eps))],
            binary=binary,
            inputs=sparse.hstack([inputs, x]).tocsr(),
            bias=bias,
            outputs=outputs,
            switches=switches,
            eps=eps,
            shape=image.shape,
        )

    def search(self, seconds: float) -> Answer:
        """Let HiGHS look for a perturbation that makes all margins negative.

        As t is at most 0, margins restrict the ReLUs before anything is split.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp

        found = milp(
            np.r_[1.0, np.zeros(len(self.least))],
            constraints=LinearConstraint(self._with_t(self.share), ub=self.upper),
            bounds=Bounds(np.r_[-np.inf, self.least], np.r_[0.0, self.most]),
            integrality=np.r_[0.0, self.binary],
            options={"time_limit": max(seconds, 1e-3), "mip_rel_gap": _GAP},
        )
        if found.x is None:
            return Answer(None, found.status == _INFEASIBLE)
        u = found.x[-len(self.eps) :].clip(-1, 1) * self.eps
        return Answer(torch.from_numpy(u).view(self.shape), False)

    @property
    def signs(self) -> np.ndarray:
        """(M,) of the ReLUs that are split: 1 for on, -1 for off, 0 for others."""
        least, most = self.least[self.switches], self.most[self.switches]
        return np.where(least == most, 2 * least - 1, 0.0)

    def halves(self, x: np.ndarray, weights: np.ndarray) -> list[Program]:
        """Return the parts where one ReLU is on, and off; none if x violates none.

        The ReLU is the one whose violation, times the weight of its upper rows, is largest.

        Args:
            x: (N,) a solution.
            weights: (R,) of the rows.
        """
        z, upper = self.inputs @ x + self.bias, self._of_neurons(weights)[1:].sum(0)
        free = self.least[self.switches] < self.most[self.switches]
        above = np.where(free, x[self.outputs] - np.maximum(z, 0.0), 0.0)
        above *= (above > _VIOLATED) * (upper + _LEAST_SHARE * upper.max(initial=1e-9))
        if not above.any():
            return []
        worst = int(above.argmax())
        place, parts = self.switches[worst], []
        for side in sorted((0.0, 1.0), key=lambda side: abs(x[place] - side), reverse=True):
            least, most = self.least.copy(), self.most.copy()
            least[place] = most[place] = side
            parts.append(replace(self, least=least, most=most))
        return parts

    def multipliers(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the coefficients (M,) of the inputs of ReLUs, and those (s,) of margins.

        Args:
            weights: (R,) of the rows, whose sum they are of.
        """
        above, below, _ = self._of_neurons(weights)
        return above - below, weights[self.share > 0]

    def _of_neurons(self, weights: np.ndarray) -> np.ndarray:
        """Return the weights (3, M) of the three rows of each ReLU, as above."""
        ends = np.flatnonzero(self.share)
        members = np.split(weights, ends + 1)[:-1]
        return np.concatenate([member[:-1].reshape(3, -1) for member in members], 1)

    def _with_t(self, share: np.ndarray) -> Any:
        from scipy import sparse

        return sparse.hstack([sparse.csr_array(-share[:, None]), self.matrix]).tocsr()

    def relaxation(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the least t, a solution (N,) and weights (R,) of the rows.

        Where rows contradict each other for every t, all of them are relaxed by it.
        """
        from scipy.optimize import linprog

        for share in (self.share, np.ones_like(self.share)):
            found = linprog(
                np.r_[1.0, np.zeros(len(self.least))],
                A_ub=self._with_t(share),
                b_ub=self.upper,
                bounds=np.c_[np.r_[-np.inf, self.least], np.r_[np.inf, self.most]],
                method="highs-ds",
                options={"presolve": False},  # it takes longer than what it saves
            )
            if found.status == 0:
                return found.x[0], found.x[1:], np.maximum(-found.ineqlin.marginals, 0.0)
        return -np.inf, self.least, np.zeros_like(self.share)


class _Member(NamedTuple):
    """The rows of one member: own matrix on its h and d, and one on the pixels; as above."""

    own: Any
    pixels: Any
    share: np.ndarray
    upper: np.ndarray
    most: np.ndarray
    inputs: Any
    x: Any
    bias: np.ndarray


def _member(network: ReducedNetwork, eps: np.ndarray, row: int) -> _Member:
    from scipy import sparse

    count, x, t = len(network), network.inputs * eps, network.inner
    bias, lower, upper = map(_numpy, (network.bias, network.lower, network.upper))
    one, none = sparse.identity(count), sparse.csr_array((count, count))
    g, h = (_numpy(part[row]) for part in (network.margin_inputs, network.margin_outputs))
    own = [
        [t - one, none],
        [one - t, sparse.diags_array(-lower)],
        [one, sparse.diags_array(-upper)],
        [sparse.csr_array(h[None]), sparse.csr_array((1, count))],
    ]
    return _Member(
        own=sparse.vstack([sparse.hstack(part) for part in own]),
        pixels=sparse.vstack([x, -x, 0 * x, sparse.csr_array((g * eps)[None])]),
        share=np.r_[np.zeros(3 * count), 1.0],
        upper=np.r_[-bias, bias - lower, np.zeros(count), -float(network.margin_bias[row])],
        most=np.r_[upper, np.ones(count)],
        inputs=sparse.hstack([t, none]),
        x=x,
        bias=bias,
    )


def _numpy(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()
