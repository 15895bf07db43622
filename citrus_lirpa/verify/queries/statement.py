"""A query in the form that is decided: a box of free inputs, and a formula of what is left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ...errors import InputError
from ...formats.query import Atom, Every, Formula, Linear, Query, Some, Variable, variables_of

#: Where a solution is looked for at most, of inputs without bounds.
_FAR = Fraction(10)


class UndecidedError(InputError):
    """A query is beyond what is decided here: the answer is "unknown", and this is why."""


@dataclass(frozen=True)
class Statement:
    """A query whose ties between inputs are solved.

    Args:
        free: The inputs that are left to choose.
        lower: Of each, the least value.
        upper: Of each, the greatest value.
        tied: The other inputs, each as a linear function of free ones.
        formula: What must hold beside the box, of free inputs and outputs; None where nothing
            can hold.
        unbounded: A free input that has no such least or greatest value, and was given one.
    """

    free: tuple[Variable, ...]
    lower: tuple[Fraction, ...]
    upper: tuple[Fraction, ...]
    tied: dict[Variable, Linear]
    formula: Formula | None
    unbounded: Variable | None = None

    def inputs(self, free: Sequence[Fraction]) -> dict[Variable, Fraction]:
        """Return the value of every input for those of the free ones."""
        values = dict(zip(self.free, free, strict=True))
        for variable, linear in self.tied.items():
            total = sum((f * values[v] for v, f in linear.terms.items()), linear.constant)
            values[variable] = Fraction(total)
        return values


def statement_of(query: Query) -> Statement:
    """Solve the ties of a query.

    Equalities between inputs, as x2 = x1 + c, leave out one input each. Bounds of single inputs
    become a box. Whatever else is asserted of inputs stays in the formula.

    Raises:
        UndecidedError: A value within a network is named.
    """
    for network in query.networks:
        if network.hidden:
            raise UndecidedError(
                f"network {network.name} declares values within it; inputs and outputs are decided"
            )
    inputs = [v for network in query.networks for v in variables_of(network.inputs)]
    known = set(inputs)
    tied, box, others = _Ties(inputs), {v: _Interval() for v in inputs}, []
    facts = list(_facts(query.formula))
    for fact in facts:
        if isinstance(fact, Atom) and fact.relation == "==" and known.issuperset(fact.left.terms):
            if not tied.add(fact.left):
                return Statement((), (), (), {}, None)
    for fact in facts:
        if not isinstance(fact, Atom):
            others.append(_replaced(fact, tied.known))
            continue
        left = fact.left.replaced(tied.known)
        bound = len(left.terms) == 1 and known.issuperset(left.terms)
        if bound:
            ((variable, factor),) = left.terms.items()
            box[variable].cut(-left.constant / factor, factor > 0, fact.relation)
        if not left.terms and not fact.holds(left.constant):
            return Statement((), (), (), {}, None)
        if left.terms and not (bound and fact.relation != "<"):
            others.append(_replaced(fact, tied.known))
    return _with_box(inputs, box, tied.known, others)


def _with_box(
    inputs: list[Variable],
    box: dict[Variable, _Interval],
    tied: dict[Variable, Linear],
    others: list[Formula],
) -> Statement:
    free = tuple(variable for variable in inputs if variable not in tied)
    ends = [box[variable].ends() for variable in free]
    if any(low > high for low, high in ends):
        return Statement((), (), (), {}, None)
    lower, upper = (tuple(end[side] for end in ends) for side in (0, 1))
    unbounded = next((variable for variable in free if box[variable].half_open), None)
    return Statement(free, lower, upper, tied, Every(tuple(others)), unbounded)


class _Interval:
    """The least and the greatest value of an input; None where there is none yet."""

    def __init__(self) -> None:
        self.lower: Fraction | None = None
        self.upper: Fraction | None = None

    @property
    def half_open(self) -> bool:
        """Whether an end is missing."""
        return self.lower is None or self.upper is None

    def ends(self) -> tuple[Fraction, Fraction]:
        """Return both ends; a missing one is set so far away that there is room to look."""
        lower, upper = self.lower, self.upper
        if lower is None:
            lower = -_FAR if upper is None else min(-_FAR, upper - _FAR)
        if upper is None:
            upper = max(_FAR, lower + _FAR)
        return lower, upper

    def cut(self, end: Fraction, above: bool, relation: str) -> None:
        """Take ``end`` as the upper end, or as the lower one; as both for an equality."""
        if above or relation == "==":
            self.upper = end if self.upper is None else min(self.upper, end)
        if not above or relation == "==":
            self.lower = end if self.lower is None else max(self.lower, end)


class _Ties:
    """Inputs as functions of earlier ones, in ``known``; none refers to another input of it."""

    def __init__(self, inputs: list[Variable]) -> None:
        self._order = {variable: place for place, variable in enumerate(inputs)}
        self.known: dict[Variable, Linear] = {}
        self._used_by: dict[Variable, set[Variable]] = defaultdict(set)

    def add(self, zero: Linear) -> bool:
        """Note that a linear function of inputs is 0; return whether that is possible."""
        zero = zero.replaced(self.known)
        if not zero.terms:
            return zero.constant == 0
        variable = max(zero.terms, key=self._order.__getitem__)
        rest = Linear({v: f for v, f in zero.terms.items() if v != variable}, zero.constant)
        value = rest.times(-1 / zero.terms[variable])
        for other in self._used_by.pop(variable, set()):
            self._set(other, self.known[other].replaced({variable: value}))
        self._set(variable, value)
        return True

    def _set(self, variable: Variable, value: Linear) -> None:
        self.known[variable] = value
        for used in value.terms:
            self._used_by[used].add(variable)


def _facts(formula: Formula) -> Iterator[Formula]:
    """Yield what must hold in any case."""
    if isinstance(formula, Every):
        for part in formula.parts:
            yield from _facts(part)
    elif isinstance(formula, Some) and len(formula.parts) == 1:
        yield from _facts(formula.parts[0])
    else:
        yield formula


def _replaced(formula: Formula, known: dict[Variable, Linear]) -> Formula:
    """Return a formula of free inputs and outputs, in which an equality is two inequalities."""
    if isinstance(formula, Atom):
        left = formula.left.replaced(known)
        if formula.relation != "==":
            return Atom(left, formula.relation)
        return Every((Atom(left, "<="), Atom(left.times(Fraction(-1)), "<=")))
    return type(formula)(tuple(_replaced(part, known) for part in formula.parts))
