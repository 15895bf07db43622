"""The I/O formulation (Zeng et al. 2023) as a mixed-integer program, for large groups."""

from __future__ import annotations

import math

import numpy as np

from .lines import Group

#: HiGHS works to feasibilities of 1e-6: what its bound may be off by, per binary.
_SLACK = 1e-4
#: Slack given to every line, so that a feasibility tolerance cannot refute what is possible.
_RELAX = 1e-5


def most_broken(group: Group, *, time_limit: float) -> int:
    """An upper bound on how many images of ``group`` one |u| <= ε can break.

    Maximises the number of images with some wrong class all of whose lines are <= 0 under a
    shared u, without any set in ``group.blocked`` being broken as a whole. Only the dual
    bound of the solver counts, rounded outward; where it fails, every image counts as broken.
    Under clipping v(u) is not linear, and the blocked sets alone are used.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # see lines.py
    from scipy.sparse import csr_array, hstack, vstack

    images = list(group.rows)
    margins = [(i, row) for i in images for row in group.rows[i]]
    lines = group.lines
    pixels = lines.g.shape[1:].numel() if lines.clip is None else 0
    column = {margin: pixels + k for k, margin in enumerate(margins)}
    first_image = pixels + len(margins)
    place = {i: first_image + k for k, i in enumerate(images)}
    width = first_image + len(images)
    parts, uppers = [], []

    def constrain(u: np.ndarray | None, entries: dict[int, float], upper: float) -> None:
        left = csr_array((1, pixels)) if u is None else csr_array(u.reshape(1, -1))
        right = np.zeros((1, width - pixels))
        for at, value in entries.items():
            right[0, at - pixels] = value
        parts.append(hstack([left, csr_array(right)]))
        uppers.append(upper)

    if pixels:
        for i, row in margins:
            for n in lines.of(i, row):
                g, c = lines.g[n].flatten().numpy(), float(lines.c[n])
                # g·u + c <= M (1 - y), M the most the line can be
                most = c + lines.eps * float(np.abs(g).sum())
                if most > 0:
                    constrain(lines.eps * g, {column[i, row]: most}, most - c + _RELAX)
    for i in images:  # broken through one of its rows
        constrain(None, {place[i]: 1.0, **{column[i, r]: -1.0 for r in group.rows[i]}}, 0.0)
    for block in group.blocked:
        constrain(None, dict.fromkeys((place[i] for i in block), 1.0), len(block) - 1.0)
    cost = np.zeros(width)
    cost[first_image:] = -1.0
    low, high = np.zeros(width), np.ones(width)
    low[:pixels] = -1.0  # u / ε
    answer = milp(
        cost,
        constraints=LinearConstraint(vstack(parts), ub=np.array(uppers)),
        bounds=Bounds(low, high),
        integrality=np.r_[np.zeros(pixels), np.ones(width - pixels)],
        options={"time_limit": time_limit},
    )
    bound = getattr(answer, "mip_dual_bound", None)
    if bound is None or not math.isfinite(bound):
        return len(images)
    return min(len(images), math.floor(-bound + _SLACK * len(images)))
