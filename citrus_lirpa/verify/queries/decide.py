"""Decides a query: by an attack, by bounds of the joint network, by splitting it."""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...bounds.deadline import ending_by
from ...bounds.precision import full_precision, rounding_threshold
from ...errors import ModelError, OutOfTime
from ...formats.flat_network import CURVES, PIECEWISE
from ...formats.query import Query
from ..budget import Budget
from ..crown.branch_and_bound import Problems, branch_and_bound
from ..crown.reduced_images import ReducedImages
from ..crown.tree import BROKEN, PROVED
from .attack import Attack
from .engine import QueryEngine
from .joint import Joint
from .judge import Judge
from .networks import load_networks
from .statement import UndecidedError, statement_of
from .tree import Tree, alternatives, possible, without

SAT, UNSAT, UNKNOWN, TIMED_OUT = "sat", "unsat", "unknown", "timed-out"

#: Points that the first attack begins from, and its steps.
_STARTS, _STEPS = 16, 30
#: Boxes that are bounded together, and how many there may be at most.
_BOXES, _MOST_BOXES = 4096, 1 << 20


@dataclass(frozen=True)
class Answer:
    """What is found of a query.

    Args:
        verdict: ``sat``, ``unsat``, ``unknown`` or ``timed-out``.
        values: Of ``sat``: the numbers of every tensor, in row-major order.
        reason: Of ``unknown``: why.
    """

    verdict: str
    values: Mapping[str, list[Fraction]] | None = None
    reason: str = ""


def decide(query: Query, files: Mapping[str, Path], timeout: float = math.inf) -> Answer:
    """Decide whether a query can hold.

    ``unsat`` rests on bounds that are positive beyond rounding, as certificates do; ``sat`` on
    inputs with which onnxruntime, in the declared types, and exact arithmetic show that it holds.

    Args:
        query: The query.
        files: An ONNX file for each network that is no copy of another.
        timeout: Seconds.

    Raises:
        InputError: The files do not fit the query.
        DependencyError: A package is missing.
    """
    budget = Budget(time.perf_counter() + timeout, timeout)
    try:
        statement = statement_of(query)
        networks = load_networks(query, files)
        if statement.formula is None:
            return Answer(UNSAT)
        joint = Joint(statement, query, networks).eval()
        search = _Search(joint, Judge(query, statement, networks), budget)
        device = torch.device("cpu")
        with torch.no_grad(), full_precision(device), ending_by(budget.deadline):
            return search.answer()
    except OutOfTime:
        return Answer(TIMED_OUT)
    except (UndecidedError, ModelError) as error:
        return Answer(UNKNOWN, reason=str(error))


class _Search:
    """One query on its way to an answer.

    Args:
        joint: The networks and what is asked.
        judge: Replays inputs.
        budget: Until when.
    """

    def __init__(self, joint: Joint, judge: Judge, budget: Budget):
        self.joint, self.judge, self.budget = joint, judge, budget
        self.tree: Tree = joint.tree
        self.attack, self.size = Attack(joint, judge), joint.size

    def answer(self) -> Answer:
        """Attack, then prove."""
        generator = torch.Generator().manual_seed(0)
        starts = torch.rand(_STARTS, self.size, generator=generator) * 2 - 1
        starts[0], starts[1 : _STARTS // 2] = 0.0, starts[1 : _STARTS // 2].sign()
        values = self.attack.values(self.attack(starts, _STEPS))
        if values is not None:
            return Answer(SAT, values)
        if self.budget.over:
            return Answer(TIMED_OUT)
        if unbounded := self.joint.statement.unbounded:
            name, place = unbounded
            return Answer(
                UNKNOWN, reason=f"input {name}, number {place}, has no bounds; state both"
            )
        functions = self.joint.functions
        if not functions:
            return self._by_program()
        if functions <= PIECEWISE | CURVES:
            found = self._by_bounds()
            if functions <= PIECEWISE or found.verdict != UNKNOWN:
                return found
        return self._by_boxes()

    # -- affine networks ----------------------------------------------------------

    def _by_program(self) -> Answer:
        """Solve a linear program for each conjunction of rows that are affine in z."""
        from scipy.optimize import linprog  # its import takes a second

        zero = torch.zeros(1, self.size)
        constant = self.joint(zero)[0].double().numpy()  # at the centre of the box
        with torch.enable_grad():
            jacobian = torch.autograd.functional.jacobian(lambda z: self.joint(z)[0], zero)
        matrix = jacobian[:, 0].double().numpy()
        threshold = float(rounding_threshold(torch.tensor(constant)[None])[0])
        alone = constant - np.abs(matrix).sum(1) > threshold
        left = without(self.tree, set(np.flatnonzero(alone).tolist()))
        if left is None:
            return Answer(UNSAT)
        undecided = False
        for rows in alternatives(left):
            which = sorted(rows)
            a = np.hstack([matrix[which], -np.ones((len(which), 1))])
            found = linprog(
                np.r_[np.zeros(self.size), 1.0],
                A_ub=a,
                b_ub=-constant[which],
                bounds=[(-1, 1)] * self.size + [(None, None)],
            )
            if found.x is None:
                undecided = True
                continue
            # whatever the multipliers are, the bound that they give holds
            weights = np.maximum(-found.ineqlin.marginals, 0)
            slope = weights @ matrix[which]
            if weights @ constant[which] - np.abs(slope).sum() > threshold * weights.sum() > 0:
                continue
            undecided = True
            z = torch.tensor(found.x[None, :-1], dtype=torch.float32)
            if (values := self.attack.values(z)) is not None:
                return Answer(SAT, values)
        return Answer(UNKNOWN, reason="it is too close to decide") if undecided else Answer(UNSAT)

    # -- networks with other functions --------------------------------------------

    def _by_boxes(self) -> Answer:
        """Split the box of inputs until interval bounds refute every part of it."""
        joint = copy.deepcopy(self.joint).double()
        lower, upper = (torch.full((1, self.size), v, dtype=torch.float64) for v in (-1.0, 1.0))
        done = 0
        while len(lower):
            now, later = slice(0, _BOXES), slice(_BOXES, None)
            low, high = joint.interval(lower[now], upper[now])
            threshold = rounding_threshold(torch.nan_to_num(torch.maximum(low.abs(), high.abs())))
            alive = possible(self.tree, ~(low > threshold[:, None]))
            parts = lower[now][alive], upper[now][alive]
            if len(parts[0]):
                values = self.attack.values(((parts[0] + parts[1]) / 2).float())
                if values is not None:
                    return Answer(SAT, values)
            halves = _halves(*parts)
            lower, upper = (
                torch.cat([lower[later], halves[0]]),
                torch.cat([upper[later], halves[1]]),
            )
            done += len(alive)
            if self.budget.over:
                return Answer(TIMED_OUT)
            if done > _MOST_BOXES:
                return Answer(UNKNOWN, reason=f"not decided by {done} boxes of inputs")
        return Answer(UNSAT)

    # -- piecewise linear networks ------------------------------------------------

    def _by_bounds(self) -> Answer:
        """Refute single rows by α-CROWN, then conjunctions of them by branch and bound."""
        engine = QueryEngine(self.attack, rounds=self.judge.rounds)
        images = engine.refined(engine.begin())
        rows = torch.zeros(1, engine.net.classes, dtype=torch.bool)
        rows[:, : len(self.joint.rows)] = True
        for steps in (0, engine.alpha_steps):
            rows &= ~engine.margins(images, rows, steps)[1]
        open_rows = set(rows[0].nonzero().flatten().tolist())
        left = without(self.tree, set(range(len(self.joint.rows))) - open_rows)
        if left is None:
            return Answer(UNSAT)
        by_size = defaultdict(list)
        for chosen in alternatives(left):
            by_size[len(chosen)].append(sorted(chosen))
        undecided, reduced = False, ReducedImages(engine, images)
        for size in sorted(by_size):
            sets = torch.tensor(by_size[size])
            problems = Problems(
                torch.zeros(1, size, dtype=torch.long),
                torch.zeros(len(sets), dtype=torch.long),
                sets,
            )
            outcome = branch_and_bound(reduced, problems, self.budget)
            if outcome.state[0] == BROKEN and engine.attack.found is not None:
                return Answer(SAT, engine.attack.found)
            undecided |= bool(outcome.state[0] != PROVED)
        if not undecided:
            return Answer(UNSAT)
        if self.budget.over:
            return Answer(TIMED_OUT)
        return Answer(UNKNOWN, reason="neither bounds nor attacks decide it")


def _halves(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Return both halves of boxes (N, n), split across their longest edges."""
    edge = (upper - lower).argmax(1, keepdim=True)
    middle = (lower + upper).gather(1, edge) / 2
    return (
        torch.cat([lower, lower.scatter(1, edge, middle)]),
        torch.cat([upper.scatter(1, edge, middle), upper]),
    )
