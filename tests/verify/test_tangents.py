"""Lines above and below curves: on the right side everywhere, by intervals and not by samples."""

import pytest
import torch

from citrus_lirpa.bounds import curves
from citrus_lirpa.verify.crown.tangents import Curved

#: Each with a bound of |f''(x)|, which falls with |x|.
CURVES = {
    "sigmoid": (curves.SIGMOID, lambda x: (-x).exp()),
    "tanh": (curves.TANH, lambda x: 8 * (-2 * x).exp()),
    "softplus": (curves.SOFTPLUS, lambda x: (-x).exp()),
    "silu": (curves.SILU, lambda x: (2 + x) * (-x).exp()),
    "gelu": (curves.GELU, lambda x: (2 + x**2) * (-(x**2) / 2).exp()),
    "tanh gelu": (curves.TANH_GELU, lambda x: 2 * (2 + x**2) * (-(x**2) / 2).exp()),
    "elu": (curves.elu(1.0), lambda x: (-x).exp()),
    "elu with a kink": (curves.elu(0.3), lambda x: (-x).exp()),
}


def intervals(count):
    """Intervals (1, count) at many scales: of one point, tiny, huge, saturated at one end."""
    exponent = torch.rand(count) * 12 - 6
    exponent[::5] = -300 * torch.rand(len(exponent[::5]))
    width = 10.0**exponent
    width[::11] = 0
    centre = (2 * torch.rand(count) - 1) * 10 ** (torch.rand(count) * 6 - 3)
    lower = centre - width * torch.rand(count)
    return lower.unsqueeze(0), (lower + width).unsqueeze(0)


def violations(name, lower, upper, slope, offset, sign):
    """How many of the lines (n,) are somewhere not proved to be below sign·f; by bisection.

    In a cell of width h around m, g = sign (f - line) is at least g(m) - |g'(m)| h/2 - F h²/8,
    where F <= 1 bounds |f''|. Cells where that is not positive are halved. What float64 may be off
    by is taken off.
    """
    curve, bend = CURVES[name]
    line = torch.arange(len(lower)).repeat_interleave(5)
    where = torch.linspace(0, 1, 5, dtype=torch.float64)
    ends = lower.unsqueeze(1) + (upper - lower).unsqueeze(1) * where
    kink = torch.zeros_like(lower).clamp(lower, upper).unsqueeze(1)
    ends = torch.cat([ends, kink], 1).sort(1).values
    a, b = ends[:, :-1].flatten(), ends[:, 1:].flatten()
    wrong = line[:0]
    for _ in range(80):
        m = (a + b) / 2
        half = torch.maximum(m - a, b - m)
        near = torch.where((a < 0) & (b > 0), 0.0, torch.minimum(a.abs(), b.abs()))
        most = bend(near).clamp(max=1)
        if name.startswith("elu"):  # which is straight from 0 on
            most = torch.where(a >= 0, 0.0, most)
        s, o = slope[line], offset[line]
        g = sign[line] * (curve.function(m) - s * m - o)
        steep = (curve.slope(m) - s).abs()
        off = 2.0**-50 * (1 + torch.maximum(a.abs(), b.abs())) * (1 + s.abs())
        proved = g - steep * half - most * half**2 / 2 > off
        wrong = torch.cat([wrong, line[g < -off].unique()])
        open_ = ~(proved | torch.isin(line, wrong))
        line, a, m, b = line[open_], a[open_], m[open_], b[open_]
        line, a, b = line.repeat(2), torch.cat([a, m]), torch.cat([m, b])
        if not len(line):
            break
    return len(torch.cat([wrong, line]).unique())


def lines(name, count, dtype):
    lower, upper = intervals(count)
    parameter, below = torch.rand(1, count), torch.rand(1, count) < 0.5
    parameter[:, ::7], parameter[:, 1::7], parameter[:, 2::7] = 0, 0.5, 1
    line = Curved(CURVES[name][0], lower, upper).line(parameter, below, dtype)
    sign = torch.where(below, 1.0, -1.0)
    assert line.slope.dtype == dtype and line.offset.dtype == torch.float64
    return [t[0].double() for t in (lower, upper, line.slope, line.offset, sign)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CURVES)
def test_lines_are_on_the_right_side_everywhere(name, dtype, double):
    assert violations(name, *lines(name, 1_000, dtype)) == 0


@pytest.mark.nightly
@pytest.mark.parametrize("name", CURVES)
def test_a_hundred_thousand_lines_are_on_the_right_side_everywhere(name, double):
    parts = (lines(name, 10_000, torch.float32) for _ in range(10))
    assert sum(violations(name, *part) for part in parts) == 0


def test_the_search_finds_a_line_that_is_a_little_too_high(double):
    lower, upper, slope, offset, sign = lines("tanh", 1_000, torch.float64)
    excess = 4 * curves.ERROR * (1 + slope.abs()) * (1 + torch.maximum(lower.abs(), upper.abs()))
    raised = offset + sign * excess
    assert violations("tanh", lower, upper, slope, raised, sign) > 500
