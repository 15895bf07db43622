"""Fronts, hypervolumes, and the rule that ends hopeless trainings."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citrus_lirpa.runs.tuning.points import Judged, Point, front_of, hypervolume
from citrus_lirpa.runs.tuning.stopping import ENOUGH, is_hopeless

shares = st.integers(0, 6).map(lambda n: n / 8)


def point(number: int, *scores: tuple[float, float], study: str = "s") -> Point:
    return Point(study, "citrus", number, {}, 0, tuple(Judged(*one) for one in scores))


@given(st.lists(st.tuples(shares, shares), max_size=8))
def test_the_front_is_what_no_other_beats(scores):
    points = [point(i, one) for i, one in enumerate(scores)]
    front = front_of(points)

    def beats(a, b):
        return a != b and a[0] >= b[0] and a[1] >= b[1]

    kept = {(p.standard, p.ucert) for p in front}
    assert kept == {one for one in scores if not any(beats(other, one) for other in scores)}
    assert len(front) == len(kept)
    assert [p.standard for p in front] == sorted(p.standard for p in front)


@given(st.lists(st.tuples(shares, shares), max_size=8), shares, shares)
def test_the_hypervolume_is_the_area_counted_cell_by_cell(scores, x, y):
    above = [one for one in scores if one[0] >= x and one[1] >= y]
    points = [point(i, one) for i, one in enumerate(above)]
    cells = itertools.product(range(8), range(8))
    inside = sum(
        i / 8 >= x and j / 8 >= y and any(a > i / 8 and b > j / 8 for a, b in above)
        for i, j in cells
    )
    assert hypervolume(points, (x, y)) == pytest.approx(inside / 64)


def test_a_point_of_several_networks_has_means_and_deviations():
    several = point(0, (0.5, 0.25), (0.75, 0.25))
    assert (several.standard, several.ucert) == (0.625, 0.25)
    assert several.spread == (pytest.approx(0.25 / 2**0.5), 0)
    assert point(0, (0.5, 0.25)).spread is None


#: Trainings that gain 0.25 and 0.125 at most from here to their end.
FINISHED = [((0.25, 0.25), (0.5, 0.25)), ((0.5, 0.25), (0.625, 0.375))] * 3


@pytest.mark.parametrize(
    ("now", "hopeless"),
    [
        ((0.5, 0.5), False),
        ((0.375, 0.25), True),  # at most (0.625, 0.375), which the second one has
        ((0.40625, 0.25), False),  # a little more accuracy than any
        ((0.375, 0.28125), False),  # a little more UCert
        ((0.0, 0.5), False),
        ((0.0, 0.0), True),
    ],
)
def test_what_cannot_reach_the_front_even_with_the_largest_gains(now, hopeless):
    assert is_hopeless(now, FINISHED) is hopeless


def test_nothing_is_ended_before_enough_is_known():
    assert not is_hopeless((0.0, 0.0), FINISHED[: ENOUGH - 1])
    assert is_hopeless((0.0, 0.0), FINISHED[:ENOUGH])


def test_what_cannot_reach_what_is_asked_is_hopeless():
    assert not is_hopeless((0.5, 0.5), FINISHED, (0.75, 0.0))
    assert is_hopeless((0.5, 0.5), FINISHED, (0.8, 0.0))
    assert is_hopeless((0.5, 0.5), FINISHED, (0.0, 0.7))


def test_what_does_not_reach_what_is_asked_ends_no_other():
    low = [((0.25, 0.5), (0.25, 0.5))] * ENOUGH  # nothing gains anything
    assert is_hopeless((0.25, 0.5), low)
    assert is_hopeless((0.25, 0.5), low, (0.25, 0.0))
    rising = [((0.0, 0.5), (0.25, 0.5))] * ENOUGH  # all gain 0.25, and end below what is asked
    assert is_hopeless((0.0, 0.5), rising)
    assert not is_hopeless((0.05, 0.5), rising, (0.3, 0.0))


def test_gains_are_never_negative():
    falling = [((0.5, 0.5), (0.25, 0.25))] * ENOUGH
    assert not is_hopeless((0.3, 0.3), falling)
    assert is_hopeless((0.25, 0.25), falling)
