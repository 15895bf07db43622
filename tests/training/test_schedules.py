"""ε schedules against their formulas, step by step."""

import math

import pytest

from citrus_lirpa.errors import ConfigError
from citrus_lirpa.training.schedules import SCHEDULES, ramp, smoothed

#: Start and length in epochs, and steps of an epoch.
RAMPS = [(2, 20, 13), (1, 1, 8), (2, 80, 5), (3, 7, 1), (10, 4, 3), (1.5, 0.25, 100), (5, 1, 1)]


def literal_smoothed(s, start, length, batches):
    """The smoothed schedule as Shi et al. 2021 write it, with ε_max = 1."""
    s0 = (start - 1) * batches
    s1 = (start + length - 1) * batches
    sm = s0 + math.floor(0.25 * (s1 - s0))
    if s <= s0:
        return 0.0
    if sm == s0:
        return literal_linear(s, start, length, batches)
    t = (sm - s0) ** 3
    alpha = 1 / ((s1 - sm) * 4 * t + (sm - s0) * t)
    if s < sm:
        return alpha * (s - s0) ** 4
    at_turn = alpha * (sm - s0) ** 4
    return min(at_turn + (1 - at_turn) * (s - sm) / (s1 - sm), 1.0)


def literal_linear(s, start, length, batches):
    return min(max((s / batches - (start - 1)) / length, 0.0), 1.0)


@pytest.mark.parametrize(
    ("name", "literal"), [("smoothed", literal_smoothed), ("linear", literal_linear)]
)
@pytest.mark.parametrize(("start", "length", "batches"), RAMPS)
def test_every_step_is_that_of_the_formula(name, literal, start, length, batches):
    steps = range(int((start + length + 2) * batches))
    shares = [ramp(name, s, batches=batches, start=start, length=length) for s in steps]
    expected = [literal(s, start, length, batches) for s in steps]
    assert shares == pytest.approx(expected, abs=1e-12)
    first, last = round((start - 1) * batches), round((start - 1 + length) * batches)
    assert set(shares[: first + 1]) == {0.0} and set(shares[last:]) == {1.0}  # exactly
    rising = shares[first : last + 1]
    assert all(a < b for a, b in zip(rising, rising[1:], strict=False))


def test_smoothed_by_hand():
    # turn at 4 of 16: slope 4·4³ = 256, scale 1 / (12·256 + 256) = 1/3328
    values = [smoothed(s, 100, 116) for s in (100, 101, 102, 104, 110, 116)]
    assert values == pytest.approx([0, 1 / 3328, 16 / 3328, 256 / 3328, 1792 / 3328, 1])


@pytest.mark.parametrize("length", [8, 40, 1000])
def test_value_and_slope_are_continuous_at_the_turn(length):
    turn, h = length // 4, 1e-4 * length
    at = smoothed(turn, 0, length)
    before, after = smoothed(turn - h, 0, length), smoothed(turn + h, 0, length)
    assert at - smoothed(turn - 1e-9, 0, length) == pytest.approx(0, abs=1e-7)
    assert (at - before) / h == pytest.approx((after - at) / h, rel=2e-3)
    assert (after - at) / h == pytest.approx((1 - at) / (length - turn), rel=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_length_zero_is_full_at_once(name):
    assert ramp(name, 0, batches=10, start=1, length=0) == 1.0
    assert ramp(name, 10, batches=10, start=2, length=0) == 1.0
    assert ramp(name, 9, batches=10, start=2, length=0) == 0.0


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown ε schedule 'cosine'.*smoothed, linear"):
        ramp("cosine", 0, batches=1, start=1, length=1)
