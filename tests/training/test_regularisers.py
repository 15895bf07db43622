"""Shi's regularisers against a slow transcription of the formulas, and hand numbers."""

import math

import pytest
import torch

from citrus_lirpa.bounds import elementwise
from citrus_lirpa.bounds.box import Box, Interval
from citrus_lirpa.training.regularisers import l1_norm, shi_regulariser

TOL = 0.5


def literal_regulariser(inputs, layers):
    """Number by number: L_tight + L_relu, averaged over the ReLUs (RECIPES, Shi et al.)."""
    total = 0.0
    for box in layers:
        lower, upper = box.lower.flatten(), box.upper.flatten()
        count = len(lower)
        c = [(lower[k] + upper[k]) / 2 for k in range(count)]
        r0 = (inputs.upper - inputs.lower).mean() / 2
        r = sum((upper[k] - lower[k]) / 2 for k in range(count)) / count
        if r0 / max(r, 1e-12) < TOL:
            total = total + (TOL - r0 / max(r, 1e-12)) / TOL
        active = [k for k in range(count) if lower[k] > 0]
        inactive = [k for k in range(count) if upper[k] < 0]
        if not inactive:
            continue  # L_relu is infinite or NaN
        mean = sum(c) / count
        ratios = (
            sum(c[k] for k in active) / count / -(sum(c[k] for k in inactive) / count),
            sum((c[k] - mean) ** 2 for k in active) / sum((c[k] - mean) ** 2 for k in inactive),
        )
        for ratio in ratios:
            if ratio > 1:
                ratio = 1 / ratio
            if ratio < TOL:
                total = total + (TOL - ratio) / TOL
    return total / len(layers)


def random_layer(*shape, shift=0.0, width=1.0):
    """A box with graph; with shift 0 about a quarter of it is active and a quarter inactive."""
    centre, radius = torch.randn(shape) + shift, width * torch.rand(shape)
    return leaf(centre - radius, centre + radius)


def leaf(lower, upper):
    lower, upper = (torch.as_tensor(b, dtype=torch.float32).clone() for b in (lower, upper))
    return Box(lower.requires_grad_(), upper.requires_grad_())


def gradients(total, boxes):
    ends = [end for box in boxes for end in box]
    return torch.autograd.grad(total, ends, retain_graph=True, materialize_grads=True)


@pytest.mark.parametrize("shift", [-1.0, -0.3, 0.0, 0.6, 1.5])
@pytest.mark.parametrize("width", [0.1, 1.0, 3.0])
def test_values_and_gradients_are_those_of_the_formulas(shift, width):
    inputs = Box.around(torch.rand(3, 2, 2), 0.2)
    layers = [random_layer(3, 2, 2, 2, shift=shift, width=width), random_layer(3, 5, shift=-shift)]
    expected = literal_regulariser(inputs, layers)
    got = shi_regulariser(inputs, layers)
    assert got.shape == () and got.item() > 0
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    wanted = gradients(expected, layers)
    assert any(g.abs().max() > 1e-4 for g in wanted)
    torch.testing.assert_close(gradients(got, layers), wanted, atol=1e-5, rtol=1e-4)


def test_by_hand():
    # r₀ = 0.1 and r = 0.4: share 1/4. c = 1, 0, -4, c̄ = -1: ρ_μ = 1/4, ρ_σ = 4/9.
    inputs = Box(torch.tensor([0.2]), torch.tensor([0.4]))
    layer = leaf([0.6, -0.4, -4.4], [1.4, 0.4, -3.6])
    expected = (0.5 - 0.25) / 0.5 + (0.5 - 0.25) / 0.5 + (0.5 - 4 / 9) / 0.5
    assert shi_regulariser(inputs, [layer]).item() == pytest.approx(expected, rel=1e-5)


def test_tightness_alone_by_hand():
    # nothing is inactive, so only the widths count: r₀/r = 0.1 and 0.4, tol = 0.5
    inputs = Box(torch.zeros(1), torch.tensor([0.2]))
    wide, narrow = leaf([1.0], [3.0]), leaf([1.0], [1.5])
    assert shi_regulariser(inputs, [wide]).item() == pytest.approx(0.8)
    assert shi_regulariser(inputs, [wide, narrow]).item() == pytest.approx((0.8 + 0.2) / 2)


@pytest.mark.parametrize("factor", [0.01, 1.0, 1.99])
def test_tight_and_balanced_bounds_cost_nothing(factor):
    inputs = Box(torch.zeros(2), torch.full((2,), 0.2))
    centre = torch.tensor([2.0, 1.0, 0.01, -1.0, -2.0])
    layer = leaf(centre - 0.1 * factor, centre + 0.1 * factor)
    assert shi_regulariser(inputs, [layer]).item() == 0
    assert all((g == 0).all() for g in gradients(shi_regulariser(inputs, [layer]), [layer]))


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("no inactive", 0.0),  # the ratios are infinite: skipped
        ("no active", 2.0),  # both ratios are 0: the full penalty
        ("all unstable", 0.0),  # 0/0: skipped
    ],
)
def test_empty_sets_give_finite_values_and_gradients(case, expected):
    inputs = Box(torch.zeros(4), torch.ones(4))
    centre = {"no inactive": [1.0, 2.0, 0.0], "no active": [-1.0, -2.0, 0.0],
              "all unstable": [0.1, 0.0, -0.1]}[case]  # fmt: skip
    centre = torch.tensor(centre)
    layer = leaf(centre - 0.5, centre + 0.5)
    total = shi_regulariser(inputs, [layer])
    assert total.item() == pytest.approx(expected)
    assert math.isfinite(total.item())
    assert all(torch.isfinite(g).all() for g in gradients(total, [layer]))


def test_a_skipped_layer_still_counts_in_the_mean_and_spoils_no_other():
    inputs = Box(torch.zeros(1), torch.ones(1))
    skipped, other = leaf([0.5, 1.0], [1.0, 1.5]), leaf([0.5, -5.0], [1.0, -4.5])
    alone = shi_regulariser(inputs, [other])
    both = shi_regulariser(inputs, [skipped, other])
    assert both.item() == pytest.approx(alone.item() / 2) and both.item() > 0
    for g, single in zip(gradients(both, [other]), gradients(alone, [other]), strict=True):
        torch.testing.assert_close(g, single / 2)


def test_bounds_of_zero_width_are_finite():
    point = torch.tensor([1.0, -1.0])
    layer = leaf(point, point)
    total = shi_regulariser(Box(torch.zeros(1), torch.zeros(1)), [layer])
    assert total.item() == pytest.approx(1.0)  # tightness only: 0/max(0, 1e-12) = 0 < tol
    assert all(torch.isfinite(g).all() for g in gradients(total, [layer]))


def test_no_relu_costs_nothing():
    total = shi_regulariser(Box(torch.zeros(1), torch.ones(1)), [])
    assert total.shape == () and total.item() == 0


def test_l1_counts_matrices_only():
    weights = [torch.tensor([[1.0, -2.0]]), torch.tensor([100.0]), -torch.ones(1, 2, 2, 2)]
    assert l1_norm(weights).item() == 11.0
    assert l1_norm(iter(weights)).item() == 11.0


def test_large_layers_are_regularised_in_parts_as_whole(monkeypatch):
    inputs = Interval(torch.zeros(1), torch.ones(1))
    found = []
    for numbers in (1, 100, 10**6):  # a row, three, all
        monkeypatch.setattr(elementwise, "_PART", numbers)
        torch.manual_seed(0)
        layer = random_layer(8, 3, 4, 3, shift=0.6)
        total = shi_regulariser(inputs, [Interval.of(layer)])
        found.append((total, *gradients(total, [layer])))
    for parts in found[:-1]:
        torch.testing.assert_close(parts, found[-1], rtol=1e-5, atol=1e-8)
    assert found[-1][0].item() > 0


def test_gradients_of_widths_are_one_number_until_a_layer_needs_its_own():
    """Those of all layers come before the rest of the backward pass: large ones would add up."""
    ends, numbers = random_layer(8, 3, 4, 3, shift=0.6), []
    radius = ends.upper - ends.lower
    radius.register_hook(lambda g: numbers.append(g.untyped_storage().nbytes() // g.itemsize))
    shi_regulariser(
        Interval(torch.zeros(1), torch.ones(1)), [Interval(ends.lower, radius)]
    ).backward()
    assert numbers == [1]
