"""Complete search on reduced networks, as a mixed-integer program, and proofs by its relaxation.

Let every unstable ReLU of a tuple's members have a binary d, which says whether it is on. What
breaks all members satisfies

    h >= z,   h <= z - lower (1 - d),   h <= upper d,   margin <= 0 of each member,

and for any subset I of the terms w_i y_i of z = Σ_i w_i y_i + b, y being pixels and earlier h,

    h <= Σ_I (w_i y_i - (1 - d) min w_i y_i) + d (b + Σ_{not I} max w_i y_i)

(Anderson et al. 2020). The variables lie in a box. Each of these is a row: what it says of the
reduced network holds of the network up to the error of folding.

HiGHS decides the program up to tolerances, so its word proves nothing: what breaks the members
has to do so on the network. A proof is a sum of rows, with weights >= 0, that is positive
everywhere on the box (Farkas). It is computed in float64 with all errors taken off, so nothing
depends on where the weights come from: they are the dual values of the relaxation 0 <= d <= 1,
with such subsets added as it violates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...bounds.box import Ball
from ...bounds.deadline import time_is_over
from .reduced import Matrix, ReducedNetwork
from .rounding import unit

#: The integer search ends where the least margin and its bound have the same sign, by this.
_GAP = 0.99
#: What a row, or a ReLU, must be violated by to be of use.
_VIOLATED = 1e-5
#: Rows are added as long as they raise a bound by this share of what is missing.
_WORTH = 0.1


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
        errors: (R,) how much more a row may be on the network itself.
        least: (N,).
        most: (N,).
        binary: (N,) 1 for binaries.
        inputs: (M, N) w of every unstable ReLU, sparse.
        bias: (M,) b of these.
        off: (M,) how far z may be off.
        outputs: (M,) the columns of their h; those of d are M places further for each member.
        switches: (M,) the columns of their d.
        eps: (P,) the radius of each pixel.
        shape: Of an image.
    """

    matrix: Any
    share: np.ndarray
    upper: np.ndarray
    errors: np.ndarray
    least: np.ndarray
    most: np.ndarray
    binary: np.ndarray
    inputs: Any
    bias: np.ndarray
    off: np.ndarray
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
        vectors = ("share", "upper", "errors", "most", "bias", "off")
        share, upper, errors, most, bias, off = (
            np.concatenate([getattr(part, name) for part in parts]) for name in vectors
        )
        sizes = np.array([len(network) for network in networks])
        outputs = np.arange(len(bias)) + np.repeat(sizes.cumsum() - sizes, sizes)
        switches = outputs + np.repeat(sizes, sizes)
        binary = np.zeros(len(most) + len(eps))
        binary[switches] = 1.0
        return Program(
            *(sparse.hstack([own, pixels]).tocsr(), share, upper, errors),
            least=np.r_[np.zeros(len(most)), -np.ones(len(eps))],
            most=np.r_[most, np.ones(len(eps))],
            binary=binary,
            inputs=sparse.hstack([inputs, x]).tocsr(),
            bias=bias,
            off=off,
            outputs=outputs,
            switches=switches,
            eps=eps,
            shape=image.shape,
        )

    def search(self, seconds: float) -> Answer:
        """Let HiGHS look for a perturbation that makes all margins negative."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        found = milp(
            np.r_[1.0, np.zeros(len(self.least))],
            constraints=LinearConstraint(self._with_t(self.share), ub=self.upper),
            bounds=Bounds(np.r_[-np.inf, self.least], np.r_[np.inf, self.most]),
            integrality=np.r_[0.0, self.binary],
            options={"time_limit": max(seconds, 1e-3), "mip_rel_gap": _GAP},
        )
        if found.x is None or found.x[0] > 0:
            # without a ReLU it is no integer program, and has no other bound than its value
            bound = found.mip_dual_bound if self.binary.any() else found.fun
            return Answer(None, bound is not None and bound > 0)
        u = found.x[-len(self.eps) :].clip(-1, 1) * self.eps
        return Answer(torch.from_numpy(u).view(self.shape), False)

    def refuted(self, least: float = 0.0) -> bool:
        """Return whether relaxations prove that no perturbation makes all margins negative.

        Where further rows raise a bound too slowly, a ReLU is split, on and off.

        Args:
            least: What the sums of rows that prove it must exceed.
        """
        waiting = [self]
        while waiting and not time_is_over():
            left = waiting.pop()._unproved(least)
            if left is not None:
                halves = left[0]._halves(left[1])
                if not halves:
                    return False
                waiting += halves
        return not waiting

    def _unproved(self, least: float) -> tuple[Program, np.ndarray] | None:
        """Return None if rows prove this part, else it with more rows and a solution (N,)."""
        program, before = self, -np.inf
        while True:
            t, x, weights = program.relaxation()
            if program.least_sum(weights) > least:
                return None
            slow = not t - before > _WORTH * abs(t)
            further = None if slow or time_is_over() else program.with_violated(x)
            if further is None:
                return program, x
            program, before = further, t

    def _halves(self, x: np.ndarray) -> list[Program]:
        """Return the parts where the ReLU that x violates most is on, and off; none if none is."""
        z = self.inputs @ x + self.bias
        free = self.least[self.switches] < self.most[self.switches]
        above = np.where(free, x[self.outputs] - np.maximum(z, 0.0), -1.0)
        if above.max(initial=0.0) <= _VIOLATED:
            return []
        worst = int(above.argmax())
        place, parts = self.switches[worst], []
        for side in sorted((0.0, 1.0), key=lambda side: abs(x[place] - side), reverse=True):
            least, most = self.least.copy(), self.most.copy()
            least[place] = most[place] = side
            parts.append(replace(self, least=least, most=most))
        return parts

    def least_sum(self, weights: np.ndarray) -> float:
        """Return a lower bound of a sum of rows on the box, all errors taken off.

        It is positive only where no perturbation satisfies all rows for t = 0, on the network.

        Args:
            weights: (R,), at least 0.
        """
        total = self.matrix.T @ weights
        value = np.minimum(total * self.least, total * self.most).sum() - weights @ self.upper
        reach = np.maximum(np.abs(self.least), np.abs(self.most))
        size = weights @ (abs(self.matrix) @ reach + np.abs(self.upper))
        rounding = 8 * unit(torch.float64) * (sum(self.matrix.shape) + 16) * size
        return float(value - rounding - 2 * (weights @ self.errors))

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
            )
            if found.status == 0:
                return found.x[0], found.x[1:], np.maximum(-found.ineqlin.marginals, 0.0)
        return -np.inf, self.least, np.zeros_like(self.share)

    def with_violated(self, x: np.ndarray) -> Program | None:
        """Return the program with the rows that x violates most, one for each ReLU; or None."""
        from scipy import sparse

        w, neuron = (
            self.inputs.data,
            np.repeat(np.arange(len(self.bias)), np.diff(self.inputs.indptr)),
        )
        column, d = self.inputs.indices, x[self.switches]
        ends = w * self.least[column], w * self.most[column]
        low, high = np.minimum(*ends), np.maximum(*ends)
        within = w * x[column] < low * (1 - d[neuron]) + high * d[neuron]

        def added(values: np.ndarray) -> np.ndarray:
            return np.bincount(neuron, values, len(self.bias))

        lowest = added(np.where(within, low, 0.0))
        factor = lowest + self.bias + added(np.where(within, 0.0, high))
        most = added(np.where(within, w * x[column], 0.0)) - lowest + factor * d
        new = np.flatnonzero(x[self.outputs] > most + _VIOLATED)
        if not len(new):
            return None
        chosen = self.inputs.copy()
        chosen.data = np.where(within, -w, 0.0)
        each = np.arange(len(self.bias))
        places = np.r_[each, each], np.r_[self.outputs, self.switches]
        ones = sparse.csr_array((np.r_[np.ones(len(each)), -factor], places), chosen.shape)
        return replace(
            self,
            matrix=sparse.vstack([self.matrix, (chosen + ones).tocsr()[new]]).tocsr(),
            share=np.r_[self.share, np.zeros(len(new))],
            upper=np.r_[self.upper, -lowest[new]],
            errors=np.r_[self.errors, self.off[new]],
        )


class _Member(NamedTuple):
    """The rows of one member: own matrix on its h and d, and one on the pixels; as above."""

    own: Any
    pixels: Any
    share: np.ndarray
    upper: np.ndarray
    errors: np.ndarray
    most: np.ndarray
    inputs: Any
    x: Any
    bias: np.ndarray
    off: np.ndarray


def _member(network: ReducedNetwork, eps: np.ndarray, row: int) -> _Member:
    from scipy import sparse

    count = len(network)
    radius = sparse.diags_array(eps)
    x = sparse.vstack([_csr(each) for each in network.inputs]) @ radius
    t = sparse.vstack(
        [
            sparse.hstack([_csr(t), sparse.csr_array((t.plain.shape[0], count - here.start))])
            for here, t in zip(network.layers, network.inner, strict=True)
        ]
    )
    bias, lower, upper = map(_numpy, (network.bias, network.lower, network.upper))
    one, none = sparse.identity(count), sparse.csr_array((count, count))
    g, h = (_numpy(part[:, row]) for part in (network.margin_inputs, network.margin_outputs))
    own = [
        [t - one, none],
        [one - t, sparse.diags_array(-lower)],
        [one, sparse.diags_array(-upper)],
        [sparse.csr_array(h[None]), sparse.csr_array((1, count))],
    ]
    terms = 8 * unit(torch.float64) * (count + len(eps) + 16)
    sizes = [_numpy(size) for size in network.sizes]
    off = _numpy(network.errors) + terms * sizes[1]
    margin = float(network.margin_bias[row])
    wrong = float(network.margin_errors[row]) + terms * sizes[0][row]
    return _Member(
        own=sparse.vstack([sparse.hstack(part) for part in own]),
        pixels=sparse.vstack([x, -x, 0 * x, sparse.csr_array((g * eps)[None])]),
        share=np.r_[np.zeros(3 * count), 1.0],
        upper=np.r_[-bias, bias - lower, np.zeros(count), -margin],
        errors=np.r_[off, off, np.zeros(count), wrong],
        most=np.r_[upper, np.ones(count)],
        inputs=sparse.hstack([t, none]),
        x=x,
        bias=bias,
        off=off,
    )


def _csr(matrix: Matrix) -> Any:
    from scipy import sparse

    return sparse.csr_array(_numpy(matrix.plain.to_dense()))


def _numpy(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()
