"""milp: both solvers against enumeration on the same lines, and what a solver is."""

import math
import sys

import pytest
import torch

from citrus_lirpa import Protocol
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.errors import DependencyError
from citrus_lirpa.verify.budget import Budget
from citrus_lirpa.verify.crown.linear import Group, Lines
from citrus_lirpa.verify.milp import SOLVERS, most_broken


def random_group(
    seed: int, images: int, rows: int = 2, pixels: int = 4, norm: float = math.inf
) -> Group:
    torch.manual_seed(seed)
    count = images * rows
    lines = Lines(
        torch.arange(images).repeat_interleave(rows),
        torch.arange(rows).repeat(images),
        torch.randn(count, pixels, dtype=torch.double),
        torch.rand(count, dtype=torch.double),
        torch.rand(images, pixels, dtype=torch.double),
        ball=Ball(0.3, None, norm),
        threshold=torch.full((images,), 1e-9),
        slopes=torch.zeros(count, 0),
    )
    return Group({i: list(range(rows)) for i in range(images)}, lines, Budget())


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_agree_with_enumeration(solver):
    counts = []
    for seed in range(12):
        group = random_group(seed, images=5)
        for block in ([], [{0, 1}], [{0, 1}, {2, 3}, {1, 4}]):
            group.blocked = {frozenset(b) for b in block}
            try:
                found = most_broken(group, time_limit=20, solver=solver)
            except DependencyError as error:
                pytest.skip(str(error))
            assert found == group.largest(0)
            counts.append(found)
    assert len(set(counts)) >= 3


@pytest.mark.parametrize("solver", SOLVERS)
def test_for_the_norm_2_images_share_the_disc_not_the_box_around_it(solver):
    tighter = 0
    for seed in range(12):
        group = random_group(seed, images=5, pixels=6, norm=2)
        boxed = random_group(seed, images=5, pixels=6)
        for block in ([], [{0, 1}, {2, 3}, {1, 4}]):
            group.blocked = boxed.blocked = {frozenset(b) for b in block}
            try:
                found = most_broken(group, time_limit=20, solver=solver)
            except DependencyError as error:
                pytest.skip(str(error))
            assert found == group.largest(0)  # where every set is tried on the disc
            tighter += found < most_broken(boxed, time_limit=20, solver=solver)
    assert tighter >= 6


def test_both_solvers_bound_a_large_group_alike():
    group = random_group(0, images=14)
    group.blocked = {frozenset({i, i + 1}) for i in range(0, 14, 2)}
    found = most_broken(group, time_limit=20)
    assert found <= 7
    try:
        assert most_broken(group, time_limit=20, solver="gurobi") == found
    except DependencyError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("norm", [math.inf, 2.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_lines_that_are_no_numbers_refute_nothing(value, norm):
    """HiGHS calls a program with infinity infeasible, and one with NaN solved."""
    group = random_group(3, images=4, rows=1, norm=norm)
    group.lines.c.fill_(9.0)  # no image can break
    assert most_broken(group, time_limit=20) == 0
    group.lines.c[2] = value
    group.lines.g[2, 0] = value
    assert 1 <= most_broken(group, time_limit=20) <= 4


def test_a_program_that_is_stopped_has_a_dual_bound_or_counts_every_image():
    group = random_group(1, images=12)
    assert group.largest(0) <= most_broken(group, time_limit=1e-9) <= 12


def test_a_solver_that_is_not_installed_is_refused_before_the_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "gurobipy", None)
    with pytest.raises(DependencyError, match="gurobipy cannot be imported .*--solver highs"):
        Protocol(eps=0.1, solver="gurobi")
