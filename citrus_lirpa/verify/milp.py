"""The I/O formulation (Zeng et al. 2023) as a mixed-integer program, for large groups."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..bounds.checks import check_name
from ..errors import DependencyError
from ..imports import import_optional
from .crown.linear import Group

#: Solvers work to feasibilities of 1e-6: what a bound may be off by, per binary.
_SLACK = 1e-4
#: Least slack given to every line, so that a feasibility tolerance cannot refute what is possible.
_RELAX = 1e-5
#: What to do where gurobipy is missing.
_GUROBI = "pip install gurobipy, or use --solver highs"


class Program(NamedTuple):
    """A mixed-integer program: maximise value·z with matrix z <= upper and low <= z <= 1.

    Args:
        value: (n,) what each variable counts.
        matrix: (m, n), a scipy sparse array.
        upper: (m,).
        low: (n,): -1 for pixels of u / ε, 0 for the others.
        binary: (n,): 1 for variables that are 0 or 1, 0 for the others.
    """

    value: np.ndarray
    matrix: Any
    upper: np.ndarray
    low: np.ndarray
    binary: np.ndarray


def most_broken(group: Group, *, time_limit: float, solver: str = "highs") -> int:
    """Return an upper bound on how many images of ``group`` one |u| <= ε can break.

    Maximises the number of images with some wrong class all of whose lines are <= 0 under a
    shared u, without any set in ``group.blocked`` being broken as a whole. Only the dual
    bound of the solver counts, rounded outward; where it fails, every image counts as broken.
    Under clipping what u adds to an image is not linear in u, and the blocked sets alone count.

    Args:
        group: Open images, with lines and blocked sets.
        time_limit: Seconds for the solver.
        solver: One of ``SOLVERS``.

    Raises:
        DependencyError: The solver is not installed, or cannot be used.
    """
    bound = SOLVERS[solver](_program(group), time_limit)
    count = len(group.rows)
    if bound is None or not math.isfinite(bound):
        return count
    return min(count, math.floor(bound + _SLACK * count))


def _program(group: Group) -> Program:
    """Return the program of a group: variables are pixels of u / ε, margins and images."""
    from scipy.sparse import csr_array, hstack, vstack  # its import alters the warning filters

    images = list(group.rows)
    margins = [(i, row) for i in images for row in group.rows[i]]
    lines = group.lines
    eps = np.broadcast_to(lines.ball.radius(lines.x), lines.x.shape[1:]).flatten()
    pixels = lines.g.shape[1:].numel() if lines.ball.clip is None else 0
    binaries = len(margins) + len(images)
    column = {margin: k for k, margin in enumerate(margins)}
    place = {i: len(margins) + k for k, i in enumerate(images)}
    parts, uppers = [], []

    def constrain(entries: dict[int, float], upper: float, u: np.ndarray | None = None) -> None:
        left = csr_array((1, pixels)) if u is None else csr_array(u.reshape(1, -1))
        right = np.zeros((1, binaries))
        for at, factor in entries.items():
            right[0, at] = factor
        parts.append(hstack([left, csr_array(right)]))
        uppers.append(upper)

    if pixels:
        for i, row in margins:
            relax = max(_RELAX, float(lines.threshold[i]))  # of what rounding can make of it
            for n in lines.of(i, row):
                g, c = lines.g[n].flatten().numpy(), float(lines.c[n])
                # g·u + c <= M (1 - y), M the most the line can be
                most = c + float((eps * np.abs(g)).sum())
                # HiGHS calls problems with infinite numbers infeasible, or solved
                if relax < most < math.inf:
                    constrain({column[i, row]: most}, most - c + relax, eps * g)
    for i in images:  # broken through one of its rows
        constrain({place[i]: 1.0, **{column[i, r]: -1.0 for r in group.rows[i]}}, 0.0)
    for block in group.blocked:
        constrain(dict.fromkeys((place[i] for i in block), 1.0), len(block) - 1.0)
    value = np.r_[np.zeros(pixels + len(margins)), np.ones(len(images))]
    binary = np.r_[np.zeros(pixels), np.ones(binaries)]
    return Program(value, vstack(parts), np.array(uppers), binary - 1, binary)


def _highs(program: Program, time_limit: float) -> float | None:
    """Return the dual bound of HiGHS; None where it has none."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    answer = milp(
        -program.value,
        constraints=LinearConstraint(program.matrix, ub=program.upper),
        bounds=Bounds(program.low, np.ones(len(program.low))),
        integrality=program.binary,
        options={"time_limit": time_limit},  # by the time of day: a jump ends it early or late
    )
    bound = getattr(answer, "mip_dual_bound", None)
    return None if bound is None else -bound


def _gurobi(program: Program, time_limit: float) -> float | None:
    """Return the dual bound of Gurobi; None where it has none."""
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
            return model.ObjBound
    except gurobipy.GurobiError as error:
        raise DependencyError(f"Gurobi cannot be used: {error}; use --solver highs") from error


#: Solvers of the program, by name.
SOLVERS = {"highs": _highs, "gurobi": _gurobi}


def check_solver(name: str) -> None:
    """Refuse a solver that is unknown, or that is not installed.

    Raises:
        InputError: The name is not one of ``SOLVERS``.
        DependencyError: The solver is not installed.
    """
    check_name(name, "solver", SOLVERS)
    if name == "gurobi":
        import_optional("gurobipy", _GUROBI)
