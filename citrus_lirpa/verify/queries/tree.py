"""A formula over numbered rows: constraint r holds where row r is at most 0."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ...formats.query import Atom, Every, Formula, Linear
from .statement import UndecidedError

#: Most conjunctions that a formula may come to.
_MOST = 20_000


@dataclass(frozen=True)
class Node:
    """What holds where every part does, or where at least one does."""

    every: bool
    parts: tuple[Tree, ...]


#: The number of a row, or a node.
Tree: TypeAlias = int | Node


def tree_of(formula: Formula) -> tuple[Tree, list[Linear]]:
    """Return a formula over rows, and what each row is; equal rows have one number.

    A conjunction without parts holds, and a disjunction does not: the rows 0 <= 0 and 1 <= 0.
    """
    rows: list[Linear] = []
    number: dict[Any, int] = {}

    def read(part: Formula) -> Tree:
        if not isinstance(part, Atom):
            every = isinstance(part, Every)
            nothing = Atom(Linear({}, Fraction(0 if every else 1)), "<=")
            return Node(every, tuple(read(p) for p in part.parts or (nothing,)))
        key = (frozenset(part.left.terms.items()), part.left.constant)
        if key not in number:
            number[key] = len(rows)
            rows.append(part.left)
        return number[key]

    return read(formula), rows


def fold(
    tree: Tree, leaves: Tensor, every: Callable[..., Tensor], some: Callable[..., Tensor]
) -> Tensor:
    """Combine ``leaves`` (N, R) into one value (N,) for each of N points.

    ``every`` combines two values where both must hold, ``some`` where one must.
    """
    if isinstance(tree, int):
        return leaves[:, tree]
    combine = every if tree.every else some
    first, *others = (fold(part, leaves, every, some) for part in tree.parts)
    for other in others:
        first = combine(first, other)
    return first


def violation(tree: Tree, rows: Tensor) -> Tensor:
    """Return (N,) how far N points are from what the formula asks; at most 0 where it holds."""
    return fold(tree, rows, torch.maximum, torch.minimum)


def possible(tree: Tree, rows: Tensor) -> Tensor:
    """Return (N,) whether the formula may hold where each row may (N, R)."""
    return fold(tree, rows, torch.logical_and, torch.logical_or)


def without(tree: Tree, impossible: set[int]) -> Tree | None:
    """Return a formula without rows that never hold; None where nothing is left."""
    if isinstance(tree, int):
        return None if tree in impossible else tree
    parts = [without(part, impossible) for part in tree.parts]
    left = tuple(part for part in parts if part is not None)
    if not left or (tree.every and len(left) < len(parts)):
        return None
    return Node(tree.every, left)


def alternatives(tree: Tree) -> list[frozenset[int]]:
    """Return sets of rows, of which one must hold as a whole; none contains another's rows only.

    Raises:
        UndecidedError: There are too many.
    """
    found: dict[frozenset[int], None] = {}
    for rows in _alternatives(tree):
        found[rows] = None
        if len(found) > _MOST:
            raise UndecidedError(f"it comes to more than {_MOST} conjunctions")
    return list(found)


def _alternatives(tree: Tree) -> Iterator[frozenset[int]]:
    if isinstance(tree, int):
        yield frozenset([tree])
    elif not tree.every:
        for part in tree.parts:
            yield from _alternatives(part)
    else:
        for chosen in itertools.product(*(alternatives(part) for part in tree.parts)):
            yield frozenset().union(*chosen)
