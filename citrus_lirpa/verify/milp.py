"""The I/O formulation (Zeng et al. 2023) as a mixed-integer program, for large groups.

For ‖u‖₂ <= ε its variables are not pixels but coordinates of u / ε in the span of all lines'
gradients, which is all that lines see of u. The unit ball that they fill is enclosed by tangent
planes: first where single lines are least, then by one that refutes the images and margins of a
solution, as long as the whole ball refutes them.
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np
import torch

from ..bounds.checks import check_name
from ..errors import DependencyError
from ..imports import import_optional
from .crown.linear import Group, Lines, refuting

#: Solvers work to feasibilities of 1e-6: what a bound may be off by, per binary.
_SLACK = 1e-4
#: Least slack given to every line, so that a feasibility tolerance cannot refute what is possible.
_RELAX = 1e-5
#: What a solution must violate a tangent plane by, for that to be of use.
_VIOLATED = 1e-4
#: Gradients longer than this are not used for ‖u‖₂ <= ε.
_LONGEST = 1e15
#: What to do where gurobipy is missing.
_GUROBI = "pip install gurobipy, or use --solver highs"


class Program(NamedTuple):
    """A mixed-integer program: maximise value·z with matrix z <= upper and low <= z <= 1.

    Args:
        value: (n,) what each variable counts.
        matrix: (m, n), a scipy sparse array.
        upper: (m,).
        low: (n,): -1 for pixels or coordinates of u / ε, which come first, 0 for the others.
        binary: (n,): 1 for variables that are 0 or 1, 0 for the others.
        margins: (image, row) of each of the binaries after those; then come the images.
        basis: (P, r) of the coordinates, orthonormal.
    """

    value: np.ndarray
    matrix: Any
    upper: np.ndarray
    low: np.ndarray
    binary: np.ndarray
    margins: list[tuple[int, int]]
    basis: np.ndarray

    def chosen(self, z: np.ndarray) -> list[tuple[int, int]]:
        """Return the margins that a solution makes negative."""
        begin = len(self.low) - int(self.binary.sum())
        return [m for m, y in zip(self.margins, z[begin:], strict=False) if y > 0.5]

    def within(self, planes: np.ndarray) -> Program:
        """Return it with d·z <= 1 for the coordinates z and unit vectors ``planes`` (k, r)."""
        from scipy.sparse import csr_array, hstack, vstack

        rest = csr_array((len(planes), len(self.low) - planes.shape[1]))
        matrix = vstack([self.matrix, hstack([csr_array(planes), rest])]).tocsr()
        return self._replace(
            matrix=matrix, upper=np.r_[self.upper, np.full(len(planes), 1 + _RELAX)]
        )


class Found(NamedTuple):
    """What a solver has found.

    Attributes:
        bound: Its dual bound; None where it has none.
        z: (n,) its best solution; None where it has none.
    """

    bound: float | None
    z: np.ndarray | None


def most_broken(group: Group, *, time_limit: float, solver: str = "highs") -> int:
    """Return an upper bound on how many images of ``group`` one |u| <= ε can break.

    Maximises the number of images with some wrong class all of whose lines are <= 0 under a
    shared u, without any set in ``group.blocked`` being broken as a whole. Only the dual
    bound of the solver counts, rounded outward; where it fails, every image counts as broken.
    For ‖u‖₂ <= ε the program is solved again and again, with one more tangent plane of the ball.
    Under clipping what u adds to an image is not linear in u, and the blocked sets alone count.

    Args:
        group: Open images, with lines and blocked sets.
        time_limit: Seconds for the solver.
        solver: One of ``SOLVERS``.

    Raises:
        DependencyError: The solver is not installed, or cannot be used.
    """
    begin, most, count = time.perf_counter(), len(group.rows), len(group.rows)
    program: Program | None = _program(group)
    left = time_limit
    while program is not None and left >= 0:
        found = SOLVERS[solver](program, left)
        if found.bound is not None and math.isfinite(found.bound):
            most = min(most, math.floor(found.bound + _SLACK * count))
        program = None if found.z is None else _without(program, found.z, group.lines)
        left = time_limit - (time.perf_counter() - begin)
    return most


def _without(program: Program, z: np.ndarray, lines: Lines) -> Program | None:
    """Return the program with a tangent plane that a solution violates; None if there is none."""
    if lines.ball.norm != 2 or not program.basis.size:
        return None
    chosen = [n for margin in program.chosen(z) for n in lines.of(*margin)]
    chosen = [n for n in chosen if lines.c[n].abs() + lines.g[n].abs().sum() < _LONGEST]
    if not chosen:
        return None
    weights = refuting(lines, chosen).weights
    if weights is None:
        return None
    worst = lines.part(torch.tensor(chosen)).worst(weights).flatten().numpy()
    plane = program.basis.T @ worst
    plane /= max(np.linalg.norm(plane), np.finfo(float).tiny)
    outside = plane @ z[: len(plane)] > 1 + _VIOLATED
    return program.within(plane[None]) if outside else None


def _program(group: Group) -> Program:
    """Return the program of a group: variables are those of u / ε, margins and images."""
    from scipy.sparse import csr_array, hstack, vstack  # its import alters the warning filters

    images = list(group.rows)
    margins = [(i, row) for i in images for row in group.rows[i]]
    lines = group.lines
    clipped = lines.ball.clip is not None  # what is added to images is not linear in u then
    numbers = [[] if clipped else lines.of(i, row) for i, row in margins]
    moves, most, errors, basis = _moves(lines, [n for some in numbers for n in some])
    width = next((len(move) for move in moves.values()), 0)
    binaries = len(margins) + len(images)
    column = {margin: k for k, margin in enumerate(margins)}
    place = {i: len(margins) + k for k, i in enumerate(images)}
    parts, uppers = [], []

    def constrain(entries: dict[int, float], upper: float, u: np.ndarray | None = None) -> None:
        left = csr_array((1, width)) if u is None else csr_array(u.reshape(1, -1))
        right = np.zeros((1, binaries))
        for at, factor in entries.items():
            right[0, at] = factor
        parts.append(hstack([left, csr_array(right)]))
        uppers.append(upper)

    for margin, some in zip(margins, numbers, strict=True):
        relax = max(_RELAX, float(lines.threshold[margin[0]]))  # of what rounding can make of it
        for n in some:
            # g·u + c <= M (1 - y), M the most the line can be
            largest = float(lines.c[n]) + most[n]
            # HiGHS calls problems with infinite numbers infeasible, or solved
            if relax < largest < math.inf:
                constrain({column[margin]: largest}, most[n] + relax + errors[n], moves[n])
    for i in images:  # broken through one of its rows
        constrain({place[i]: 1.0, **{column[i, r]: -1.0 for r in group.rows[i]}}, 0.0)
    for block in group.blocked:
        constrain(dict.fromkeys((place[i] for i in block), 1.0), len(block) - 1.0)
    value = np.r_[np.zeros(width + len(margins)), np.ones(len(images))]
    binary = np.r_[np.zeros(width), np.ones(binaries)]
    program = Program(value, vstack(parts), np.array(uppers), binary - 1, binary, margins, basis)
    least = [-move / size for n, move in moves.items() if 0 < (size := most[n]) < math.inf]
    return program.within(np.stack(least)) if basis.size and least else program


def _moves(
    lines: Lines, numbers: list[int]
) -> tuple[dict[int, np.ndarray], dict[int, float], dict[int, float], np.ndarray]:
    """Return by line its gradient on the variables of u / ε, and the most that it adds up to.

    Then come the errors of the gradients, and the basis (P, r) of the coordinates for ‖u‖₂ <= ε.
    Lines that are no numbers have none.
    """
    g = lines.g[numbers].flatten(1).numpy()
    eps = np.broadcast_to(lines.ball.radius(lines.x), lines.x.shape[1:]).flatten()
    moves, basis = g * eps, np.zeros((0, 0))
    most, errors = np.abs(moves).sum(1), np.zeros(len(g))
    if lines.ball.norm == 2 and len(g):
        usable = most < _LONGEST
        moves = np.where(usable[:, None], moves, 0.0)
        most = np.where(usable, np.linalg.norm(moves, axis=1), np.inf)
        basis, _ = np.linalg.qr(moves.T)
        inside = moves @ basis
        errors = np.linalg.norm(moves - inside @ basis.T, axis=1) + 1e-12 * most
        moves = inside
    return (
        dict(zip(numbers, moves, strict=True)),
        dict(zip(numbers, most.tolist(), strict=True)),
        dict(zip(numbers, errors.tolist(), strict=True)),
        basis,
    )


def _highs(program: Program, time_limit: float) -> Found:
    """Return what HiGHS finds."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    answer = milp(
        -program.value,
        constraints=LinearConstraint(program.matrix, ub=program.upper),
        bounds=Bounds(program.low, np.ones(len(program.low))),
        integrality=program.binary,
        options={"time_limit": time_limit},  # by the time of day: a jump ends it early or late
    )
    bound = getattr(answer, "mip_dual_bound", None)
    return Found(None if bound is None else -bound, getattr(answer, "x", None))


def _gurobi(program: Program, time_limit: float) -> Found:
    """Return what Gurobi finds."""
    gurobipy = import_optional("gurobipy", _GUROBI)
    try:
        with gurobipy.Env(params={"OutputFlag": 0}) as env, gurobipy.Model(env=env) as made:
            model: Any = made  # whose stubs want one type for every variable
            model.Params.TimeLimit = time_limit
            z = model.addMVar(
                len(program.value),
                lb=program.low,
                ub=1.0,
                vtype=["B" if binary else "C" for binary in program.binary],
            )
            model.addConstr(program.matrix.tocsr() @ z <= program.upper)
            model.setObjective(program.value @ z, gurobipy.GRB.MAXIMIZE)
            model.optimize()
            return Found(model.ObjBound, z.X if model.SolCount else None)
    except gurobipy.GurobiError as error:
        raise DependencyError(f"Gurobi cannot be used: {error}; use --solver highs") from error


#: Solvers of the program, by name.
SOLVERS = {"highs": _highs, "gurobi": _gurobi}


def check_solver(name: str) -> None:
    """Raise InputError for an unknown solver, DependencyError for one that is not installed."""
    check_name(name, "solver", SOLVERS)
    if name == "gurobi":
        import_optional("gurobipy", _GUROBI)
