"""Lines above and below curves: on the right side everywhere, by intervals and not by samples."""

import math
from fractions import Fraction
from typing import NamedTuple

import pytest
import torch

from citrus_lirpa.bounds import curve_table as table
from citrus_lirpa.bounds.box import Box
from citrus_lirpa.bounds.curves import ERROR, PRODUCT
from citrus_lirpa.verify.crown.planes import Multiplied
from citrus_lirpa.verify.crown.tangents import Curved

ALL, POSITIVE = (-1e300, 1e300), (1e-6, 1e300)


class Case(NamedTuple):
    """A curve, and a bound of |f''| where |x| is at least and at most two numbers.

    None is for f' where it grows. Intervals are tried within ``places``.
    """

    curve: table.Curve
    bend: object
    places: tuple = ALL
    kinks: tuple = (0.0,)
    straight: float = math.inf  # from where on it is


def wave(x, high):
    return (2 + x) * (-x).exp()


def bell(x, high):
    return (2 + x**2) * (-(x**2) / 2).exp()


def of_power(p):
    """|f''| of x to the power p."""
    return lambda x, high: abs(p * (p - 1)) * (high if p > 2 else x) ** (p - 2)


def power(p, places=ALL):
    return Case(table.power(p), of_power(p), places)


def falling(x, high):
    return (-x).exp()


CASES = {
    "sigmoid": Case(table.SIGMOID, falling),
    "tanh": Case(table.TANH, lambda x, high: 8 * (-2 * x).exp()),
    "softplus": Case(table.softplus(), falling),
    "softplus with a jump": Case(table.softplus(2.0, 3.0), lambda x, high: 2 * (-2 * x).exp()),
    "silu": Case(table.SILU, wave),
    "mish": Case(table.MISH, lambda x, high: 4 * (2 + x) * (-x).exp()),
    "gelu": Case(table.GELU, bell),
    "tanh gelu": Case(table.TANH_GELU, lambda x, high: 2 * bell(x, high)),
    "elu": Case(table.elu(1.0), falling, straight=0.0),
    "elu with a kink": Case(table.elu(0.3), falling, straight=0.0),
    "steep elu": Case(table.elu(1.5), lambda x, high: 1.5 * (-x).exp(), straight=0.0),
    "elu that falls": Case(table.elu(-0.5), falling, straight=0.0),
    "selu": Case(table.SELU, lambda x, high: 1.76 * (-x).exp(), straight=0.0),
    "celu": Case(table.celu(0.7), lambda x, high: (-x / 0.7).exp() / 0.7, straight=0.0),
    "hard swish": Case(table.HARD_SWISH, lambda x, high: torch.where(x < 3, 1 / 3, 0.0),
                       kinks=(-3.0, 0.0, 3.0)),
    "softsign": Case(table.SOFTSIGN, lambda x, high: 2 / (1 + x) ** 3),
    "log sigmoid": Case(table.LOG_SIGMOID, falling),
    "exp": Case(table.EXP, None, (-1e300, 80.0)),
    "log": Case(table.LOG, lambda x, high: x**-2, POSITIVE),
    "sqrt": power(0.5, POSITIVE),
    "reciprocal": power(-1.0, POSITIVE),
    "reciprocal below 0": power(-1.0, (-1e300, -1e-6)),
    "square": power(2.0),
    "cube": power(3.0),
    "fourth power": power(4.0),
    "power 1.5": power(1.5, (0.0, 1e300)),
    "power 2.5": power(2.5, (0.0, 1e300)),
    "power 0.3": power(0.3, POSITIVE),
    "inverse square": power(-2.0, POSITIVE),
    "inverse square below 0": power(-2.0, (-1e300, -1e-6)),
    "inverse cube below 0": power(-3.0, (-1e300, -1e-6)),
    "inverse of a root": power(-0.5, POSITIVE),
}  # fmt: skip


def intervals(count, places=ALL):
    """Intervals (1, count) at many scales: of one point, tiny, huge, saturated at one end."""
    exponent = torch.rand(count) * 12 - 6
    exponent[::5] = -300 * torch.rand(len(exponent[::5]))
    width = 10.0**exponent
    width[::11] = 0
    centre = (2 * torch.rand(count) - 1) * 10 ** (torch.rand(count) * 7 - 3)
    lower = centre - width * torch.rand(count)
    low, high = places
    if low >= 0 or high <= 0:
        lower = lower.abs() if low >= 0 else -lower.abs() - width
    lower = lower.clamp(low, high)
    return lower.unsqueeze(0), (lower + width).clamp(low, high).unsqueeze(0)


def off(case, x, value, slope):
    """What values of g may be off by here, far less than what lines are moved by."""
    constant, linear = case.curve.unit
    return 2.0**-50 * (constant + linear * x + value + slope.abs() * x)


def violations(case, lower, upper, slope, offset, sign):
    """How many of the lines (n,) are somewhere not proved to be below sign·f; by bisection.

    In a cell of width h around m, g = sign (f - line) is at least g(m) - |g'(m)| h/2 - F h²/8,
    where F bounds |f''|. Cells where that is not positive are halved. What float64 may be off
    by is taken off. Cells end at kinks.
    """
    curve = case.curve
    line = torch.arange(len(lower)).repeat_interleave(4 + len(case.kinks))
    where = torch.linspace(0, 1, 5, dtype=torch.float64)
    ends = lower.unsqueeze(1) + (upper - lower).unsqueeze(1) * where
    ends = torch.minimum(ends, upper.unsqueeze(1))  # which rounding may be beyond
    kinks = [torch.full_like(lower, k).clamp(lower, upper).unsqueeze(1) for k in case.kinks]
    ends = torch.cat([ends, *kinks], 1).sort(1).values
    a, b = ends[:, :-1].flatten(), ends[:, 1:].flatten()
    wrong = line[:0]
    for _ in range(100):
        m = (a + b) / 2
        half = torch.maximum(m - a, b - m)
        near = torch.where((a < 0) & (b > 0), 0.0, torch.minimum(a.abs(), b.abs()))
        far = torch.maximum(a.abs(), b.abs())
        most = case.curve.slope(b) if case.bend is None else case.bend(near, far)
        most = torch.where(a >= case.straight, 0.0, most)
        s, o = slope[line], offset[line]
        value = curve.function(m)
        if curve.drop is not None:  # which lines below are moved down by
            value = value - torch.where(sign[line] > 0, curve.drop(Box(a, b)), 0.0)
        g = sign[line] * (value - s * m - o)
        steep = (curve.slope(m) - s).abs()
        error = off(case, torch.maximum(a.abs(), b.abs()), value.abs(), s)
        straight = (a == b) | ((b - a) <= 2 * 2.0**-52 * m.abs())
        bend = torch.where(straight, 0.0, steep * half + most * half**2 / 2)
        proved = g - bend > error
        wrong = torch.cat([wrong, line[g < -error].unique()])
        open_ = ~(proved | torch.isin(line, wrong))
        line, a, m, b = line[open_], a[open_], m[open_], b[open_]
        line, a, b = line.repeat(2), torch.cat([a, m]), torch.cat([m, b])
        if not len(line):
            break
    return len(torch.cat([wrong, line]).unique())


def lines(case, count, dtype):
    lower, upper = intervals(count, case.places)
    parameter, below = torch.rand(1, count), torch.rand(1, count) < 0.5
    parameter[:, ::7], parameter[:, 1::7], parameter[:, 2::7] = 0, 0.5, 1
    line = Curved.of(case.curve, lower, upper).line(parameter, below, dtype)
    sign = torch.where(below, 1.0, -1.0)
    assert line.slope.dtype == dtype and line.offset.dtype == torch.float64
    return [t[0].double() for t in (lower, upper, line.slope, line.offset, sign)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_lines_are_on_the_right_side_everywhere(name, dtype, double):
    assert violations(CASES[name], *lines(CASES[name], 500, dtype)) == 0


def test_rows_have_the_lines_of_their_neurons(double):
    """CROWN's lines are computed once for an image, those of other parameters for each row."""
    case, parts = CASES["mish"], torch.tensor([[2, 0, 2, 1], [3, 0, 0, 1]])
    lower, upper = (end.view(4, 50) for end in intervals(200, (-9.0, 9.0)))
    below = torch.rand(4, 50) < 0.5
    rows = Curved.of(case.curve, lower, upper).rows(parts[0]).rows(parts[1])
    alone = Curved.of(case.curve, *(end[parts[0]][parts[1]] for end in (lower, upper)))
    half = torch.full((4, 50), 0.5)
    other = half.clone()
    other[3, 49] = 0.1
    crown = rows.line(half, below, torch.float32)
    for line in (alone.line(half, below, torch.float32), rows.line(other, below, torch.float32)):
        for part, wanted in zip(crown, line, strict=True):
            torch.testing.assert_close(
                part.flatten()[:-1], wanted.flatten()[:-1], atol=1e-5, rtol=1e-5
            )


@pytest.mark.nightly
@pytest.mark.parametrize("name", CASES)
def test_a_hundred_thousand_lines_are_on_the_right_side_everywhere(name, double):
    parts = (lines(CASES[name], 10_000, torch.float32) for _ in range(10))
    assert sum(violations(CASES[name], *part) for part in parts) == 0


def test_the_search_finds_a_line_that_is_a_little_too_high(double):
    case = CASES["tanh"]
    lower, upper, slope, offset, sign = lines(case, 1_000, torch.float64)
    excess = 8 * ERROR * (1 + slope.abs()) * (1 + torch.maximum(lower.abs(), upper.abs()))
    assert violations(case, lower, upper, slope, offset + sign * excess, sign) > 500


@pytest.mark.parametrize("name", CASES)
def test_intervals_hold_all_values(name, double):
    case = CASES[name]
    lower, upper = (end[0] for end in intervals(2_000, case.places))
    found = case.curve.hull(Box(lower, upper))
    share = torch.cat([torch.rand(200, 1) ** 4, torch.linspace(0, 1, 99).unsqueeze(1)])
    x = torch.lerp(lower, upper, share).clamp(lower, upper)
    value = case.curve.function(x)
    assert bool((found.lower <= value).all() and (value <= found.upper).all())
    assert float((found.upper - found.lower).isnan().sum()) == 0


@pytest.mark.parametrize("name", ["log", "sqrt", "reciprocal", "power 0.3", "inverse square"])
def test_beyond_its_domain_a_curve_has_no_lines(name, double):
    lower, upper = torch.tensor([[-1.0, 0.0, -2.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    curved = Curved.of(CASES[name].curve, lower, upper)
    for below in (True, False):
        line = curved.line(torch.full((1, 3), 0.3), torch.full((1, 3), below), torch.float64)
        assert bool(line.offset.isnan().all())
    assert bool(CASES[name].curve.hull(Box(lower, upper)).lower.isnan().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_planes_are_on_the_right_side_of_products(dtype, double):
    """What is least over a box of x y - p x - q y is at a corner, in fractions."""
    (low, high), count = intervals(4_000), 2_000
    parameter, below = torch.rand(1, 2 * count), torch.rand(1, count) < 0.5
    parameter[:, ::7], parameter[:, 1::7] = 0, 1
    plane = Multiplied(low, high).line(parameter, below, dtype)
    (lx, ly), (hx, hy) = low[0].chunk(2), high[0].chunk(2)
    p, q = plane.slope[0].double().chunk(2)
    numbers = zip(lx, hx, ly, hy, p, q, plane.offset[0], below[0], strict=True)
    for each in [list(map(float, number)) for number in numbers][::4]:
        *ends, p, q, m, is_below = each
        sides = [(x, y) for x in ends[:2] for y in ends[2:]]
        gaps = [gap(x, y, p, q, m) for x, y in sides]
        assert min(gaps) >= 0 if is_below else max(gaps) <= 0
    box = PRODUCT.hull(Box(*(e.view(1, 2, -1) for e in (low, high))))
    inside = torch.lerp(low, high, torch.rand(50, 2 * count)).view(50, 2, -1).prod(1)
    assert bool((box.lower <= inside).all() and (inside <= box.upper).all())


def gap(x, y, p, q, m):
    """Return what x y is above a plane, in fractions."""
    x, y, p, q, m = map(Fraction, (x, y, p, q, m))
    return x * y - p * x - q * y - m
