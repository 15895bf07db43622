"""ε schedules against the formula of Shi et al. 2021, computed step by step."""

import math

import pytest

from citrus_lirpa.errors import ConfigError
from citrus_lirpa.training.schedules import SCHEDULES, linear, ramp, smoothed

RAMPS = [(2, 20, 13), (1, 1, 8), (2, 80, 5), (3, 7, 1), (10, 4, 3)]  # start, length, L


def literal(s, start, length, batches):
    """The smoothed schedule as Shi et al. 2021 write it, with ε_max = 1."""
    s0 = (start - 1) * batches
    s1 = (start + length - 1) * batches
    sm = s0 + math.floor(0.25 * (s1 - s0))
    t = (sm - s0) ** 3
    alpha = 1 / ((s1 - sm) * 4 * t + (sm - s0) * t)
    if s <= s0:
        return 0.0
    if s < sm:
        return alpha * (s - s0) ** 4
    at_turn = alpha * (sm - s0) ** 4
    return min(at_turn + (1 - at_turn) * (s - sm) / (s1 - sm), 1.0)


@pytest.mark.parametrize(("start", "length", "batches"), RAMPS)
def test_smoothed_agrees_with_the_formula_at_every_step(start, length, batches):
    for step in range((start + length + 2) * batches):
        share = ramp("smoothed", step, batches=batches, start=start, length=length)
        assert share == pytest.approx(literal(step, start, length, batches), abs=1e-12)


def test_smoothed_by_hand():
    # turn at 4 of 16: slope 4·4³ = 256, scale 1 / (12·256 + 256) = 1/3328
    values = [smoothed(s, 100, 116) for s in (100, 101, 102, 104, 110, 116)]
    assert values == pytest.approx([0, 1 / 3328, 16 / 3328, 256 / 3328, 1792 / 3328, 1])


def test_linear_by_hand():
    assert [linear(s, 10, 14) for s in (0, 10, 11, 13, 14, 99)] == [0, 0, 0.25, 0.75, 1, 1]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("first", "last"), [(0, 100), (37, 41), (5, 6), (5, 8)])
def test_ends_are_exact_and_the_way_is_monotone(name, first, last):
    values = [SCHEDULES[name](s, first, last) for s in range(last + 10)]
    assert values[first] == 0.0 and values[: first + 1] == [0.0] * (first + 1)
    assert values[last:] == [1.0] * 10
    rising = values[first : last + 1]
    assert all(a < b for a, b in zip(rising, rising[1:], strict=False))


@pytest.mark.parametrize("length", [8, 40, 1000])
def test_value_and_slope_are_continuous_at_the_turn(length):
    turn, h = length // 4, 1e-4 * length
    at = smoothed(turn, 0, length)
    before, after = smoothed(turn - h, 0, length), smoothed(turn + h, 0, length)
    assert at - smoothed(turn - 1e-9, 0, length) == pytest.approx(0, abs=1e-7)
    assert (at - before) / h == pytest.approx((after - at) / h, rel=2e-3)
    assert (after - at) / h == pytest.approx((1 - at) / (length - turn), rel=1e-6)


def test_smoothed_starts_far_below_linear():
    assert 0 < smoothed(10, 0, 100) < 0.02 * linear(10, 0, 100)


@pytest.mark.parametrize("name", SCHEDULES)
def test_epochs_count_from_one(name):
    def share(step):
        return ramp(name, step, batches=10, start=2, length=20)

    assert share(0) == share(9) == share(10) == 0.0  # all of epoch 1
    assert 0 < share(11) < share(209) < 1
    assert share(210) == 1.0  # from the first step of epoch 22


def test_half_of_a_linear_ramp():
    assert ramp("linear", 110, batches=10, start=2, length=20) == 0.5


@pytest.mark.parametrize("name", SCHEDULES)
def test_epochs_may_be_fractions(name):
    def share(step):
        return ramp(name, step, batches=100, start=1.5, length=0.25)

    assert share(49) == share(50) == 0.0
    assert 0 < share(51) < share(74) < 1
    assert share(75) == 1.0
    assert ramp("linear", 60, batches=100, start=1.5, length=0.25) == pytest.approx(0.4)
    expected = literal(60, 1.5, 0.25, 100)
    assert ramp("smoothed", 60, batches=100, start=1.5, length=0.25) == pytest.approx(expected)


@pytest.mark.parametrize("name", SCHEDULES)
def test_length_zero_is_full_at_once(name):
    assert ramp(name, 0, batches=10, start=1, length=0) == 1.0
    assert ramp(name, 10, batches=10, start=2, length=0) == 1.0
    assert ramp(name, 9, batches=10, start=2, length=0) == 0.0


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown ε schedule 'cosine'.*smoothed, linear"):
        ramp("cosine", 0, batches=1, start=1, length=1)
