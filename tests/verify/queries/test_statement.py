"""Ties and bounds of inputs: what is left to choose."""

from fractions import Fraction as F

import pytest

from citrus_lirpa.formats.query import Atom, Declaration, Every, Linear, Query, QueryNetwork, Some
from citrus_lirpa.verify.queries.statement import UndecidedError, statement_of
from citrus_lirpa.verify.queries.tree import Node, alternatives, tree_of, violation, without


def row(relation, constant=0, **factors):
    terms = {(name[0].upper(), int(name[1:])): F(f) for name, f in factors.items()}
    return Atom(Linear(terms, F(constant)), relation)


def query(*parts, size=3, hidden=0):
    inputs, outputs = (Declaration("X", "real", (size,)),), (Declaration("Y", "real", (2,)),)
    return Query((QueryNetwork("N", inputs, outputs, hidden=hidden),), Every(parts))


def box(*ends):
    """0 <= x_i <= 1 unless ends says otherwise."""
    return [
        bound
        for i, (low, high) in enumerate(ends)
        for bound in (row("<=", low, **{f"x{i}": -1}), row("<=", -high, **{f"x{i}": 1}))
    ]


def test_a_box():
    statement = statement_of(query(*box((0, 1), (F(1, 3), 2), (-1, -1)), row("<=", 0, y0=1)))
    assert statement.free == (("X", 0), ("X", 1), ("X", 2))
    assert (statement.lower, statement.upper) == ((0, F(1, 3), -1), (1, 2, -1))
    assert statement.formula == Every((row("<=", 0, y0=1),))


def test_factors_and_strict_bounds_cut_the_box():
    parts = [row("<=", -1, x0=-2), row("<", -3, x0=2), *box((-9, 9), (0, 1), (0, 1))]
    statement = statement_of(query(*parts))
    assert (statement.lower[0], statement.upper[0]) == (F(-1, 2), F(3, 2))
    assert statement.formula == Every((row("<", -3, x0=2),))


def test_chains_of_ties_leave_one_input():
    ties = [row("==", -1, x1=1, x0=-1), row("==", 0, x2=2, x1=-1)]  # x1 = x0 + 1, x2 = x1 / 2
    statement = statement_of(query(*ties, row("<=", 0, x2=-1), row("<=", -1, x2=1)))
    assert len(statement.free) == 1
    for low in (statement.lower, statement.upper):
        values = statement.inputs(low)
        assert values["X", 1] == values["X", 0] + 1 == 2 * values["X", 2]
    assert {statement.inputs(end)["X", 2] for end in (statement.lower, statement.upper)} == {0, 1}


def test_ties_in_any_order_give_the_same_values():
    ties = [row("==", -i, **{f"x{i}": 1, "x0": -1}) for i in (3, 1, 2)]
    ties.append(row("==", 0, x4=1, x3=-1, x2=-1))  # of three inputs
    statement = statement_of(query(*ties, *box((0, 1)), size=5))
    assert statement.inputs([F(1, 2)] * len(statement.free)) == {
        ("X", 0): F(1, 2), ("X", 1): F(3, 2), ("X", 2): F(5, 2), ("X", 3): F(7, 2), ("X", 4): 6,
    }  # fmt: skip


@pytest.mark.parametrize(
    "parts",
    [
        box((0, 1), (2, 1), (0, 1)),
        [row("==", -1, x0=1, x1=-1), row("==", 0, x0=1, x1=-1), *box((0, 1), (0, 1), (0, 1))],
        [row("<=", 1), *box((0, 1), (0, 1), (0, 1))],
    ],
)
def test_what_no_input_satisfies(parts):
    assert statement_of(query(*parts)).formula is None


def test_inputs_without_bounds_get_room():
    statement = statement_of(query(*box((0, 1)), row("<=", 90, x1=1), size=2))
    assert statement.unbounded == ("X", 1)
    assert (statement.lower, statement.upper) == ((0, -100), (1, -90))


def test_what_is_beyond():
    with pytest.raises(UndecidedError, match="values within it"):
        statement_of(query(*box((0, 1), (0, 1), (0, 1)), hidden=1))


def test_trees():
    import torch

    a, b, c = (row("<=", 0, y0=1), row("<=", 1, y0=1), row("<=", 2, y0=1))
    tree, rows = tree_of(Every((a, Some((b, Every((c, a)))))))
    assert [r.constant for r in rows] == [0, 1, 2]
    assert tree == Node(True, (0, Node(False, (1, Node(True, (2, 0))))))
    assert alternatives(tree) == [frozenset({0, 1}), frozenset({0, 2})]
    assert without(tree, {1}) == Node(True, (0, Node(False, (Node(True, (2, 0)),))))
    assert without(tree, {1, 2}) is None
    assert without(tree, {0}) is None
    values = torch.tensor([[-1.0, 5.0, -2.0], [-1.0, 5.0, 2.0]])
    assert violation(tree, values).tolist() == [-1.0, 2.0]
