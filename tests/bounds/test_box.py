"""Boxes around points, and the cross-input boxes of Algorithm 1."""

import pytest
import torch

from citrus_lirpa.bounds.box import Box, check_radius, clamp
from citrus_lirpa.errors import InputError
from citrus_lirpa.losses.cross_input import Groups, Shifts, cross_input_boxes


def double_loop(x, v, tau, sees):
    """Every box by itself, in Python numbers; ``sees(i)`` lists the partners of input i."""
    lower, upper = [], []
    for i in range(len(x)):
        for j in sees(i):
            centre = [a + b for a, b in zip(x[i].tolist(), v[j].tolist(), strict=True)]
            lower.append([min(max(c - tau, 0.0), 1.0) for c in centre])
            upper.append([min(max(c + tau, 0.0), 1.0) for c in centre])
    return torch.tensor(lower), torch.tensor(upper)


def group_of_three(include_self):
    return lambda i: [j for j in range(i // 3 * 3, i // 3 * 3 + 3) if include_self or j != i]


def two_following_of_six(include_self):
    return lambda i: ([i] if include_self else []) + [(i + 1) % 6, (i + 2) % 6]


# ------------------------------------------------------------------- cross-input boxes


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize(
    ("pairing", "sees"), [(Groups, group_of_three), (Shifts, two_following_of_six)]
)
def test_cross_input_boxes_are_those_of_a_double_loop(pairing, sees, include_self):
    x, v = torch.rand(6, 7), torch.randn(6, 7) * 0.4
    partners = pairing(3 if pairing is Groups else 2, include_self)(6)
    box = cross_input_boxes(x, v, 0.1, partners)
    lower, upper = double_loop(x, v, 0.1, sees(include_self))
    assert box.lower.shape == (6 * (2 + include_self), 7)
    torch.testing.assert_close(box.lower, lower, atol=1e-6, rtol=0)
    torch.testing.assert_close(box.upper, upper, atol=1e-6, rtol=0)


def test_hand_numbers_of_a_group_of_two():
    x = torch.tensor([[0.25], [0.5]])
    v = torch.tensor([[0.125], [-0.25]])
    box = cross_input_boxes(x, v, 0.0625, Groups(2)(2))
    # x_0 + v_1 = 0, and x_1 + v_0 = 0.625
    assert box.lower.flatten().tolist() == [0.0, 0.5625]
    assert box.upper.flatten().tolist() == [0.0625, 0.6875]


def test_images_keep_their_shape_and_groups_their_order():
    x, v = torch.rand(4, 3, 2, 5), torch.zeros(4, 3, 2, 5)
    box = cross_input_boxes(x, v, 0.0, Shifts(3)(4))
    assert torch.equal(box.lower, x.repeat_interleave(3, dim=0))
    assert len(box) == 12


# --------------------------------------------------------------------------- clipping


@pytest.mark.parametrize(
    ("centre", "lower", "upper"),
    [
        (0.5, 0.375, 0.625),
        (0.0625, 0.0, 0.1875),  # cut below
        (0.9375, 0.8125, 1.0),  # cut above
        (0.0, 0.0, 0.125),
        (1.0625, 0.9375, 1.0),  # centre outside by less than the radius
        (-0.125, 0.0, 0.0),  # outside by exactly the radius
        (-0.5, 0.0, 0.0),  # by more: a point, not an inverted box
        (1.5, 1.0, 1.0),
    ],
)
def test_boxes_are_cut_exactly_at_both_ends(centre, lower, upper):
    box = Box.around(torch.tensor([[centre]]), 0.125)
    assert (box.lower.item(), box.upper.item()) == (lower, upper)


def test_perturbations_leaving_the_range_never_invert_a_box():
    x, v = torch.rand(10, 50).round(), torch.randn(10, 50)
    box = cross_input_boxes(x, v, 0.05, Groups(5)(10))
    assert (box.lower <= box.upper).all()
    assert box.lower.min() == 0 and box.upper.max() == 1
    below = (x[0] + v[1]) < -0.05
    assert below.any() and (box.lower[0][below] == 0).all() and (box.upper[0][below] == 0).all()
    above = (x[0] + v[1]) > 1.05
    assert above.any() and (box.lower[0][above] == 1).all() and (box.upper[0][above] == 1).all()


def test_no_clip_leaves_the_boxes_whole():
    box = Box.around(torch.tensor([[-2.0, 0.5, 3.0]]), 0.5, clip=None)
    assert box.lower.tolist() == [[-2.5, 0.0, 2.5]]
    assert box.upper.tolist() == [[-1.5, 1.0, 3.5]]


def test_radius_and_clip_may_differ_by_channel():
    centre = torch.full((2, 2, 1, 1), 0.5)
    radius = torch.tensor([0.25, 4.0]).view(2, 1, 1)
    limits = torch.tensor([0.375, -1.0]).view(2, 1, 1), torch.tensor([1.0, 2.0]).view(2, 1, 1)
    box = Box.around(centre, radius, limits)
    assert box.lower.flatten(1).tolist() == [[0.375, -1.0]] * 2
    assert box.upper.flatten(1).tolist() == [[0.75, 2.0]] * 2
    crossed = cross_input_boxes(centre, torch.zeros_like(centre), radius, Groups(2)(2), limits)
    assert torch.equal(crossed.lower, box.lower) and torch.equal(crossed.upper, box.upper)


def test_clamp_mixes_numbers_and_tensors():
    x = torch.tensor([-1.0, 0.25, 3.0])
    assert clamp(x, (0.0, torch.tensor([5.0, 0.125, 2.0]))).tolist() == [0.0, 0.125, 2.0]
    assert clamp(x, (torch.tensor([-0.5, 0.5, 0.0]), 1.0)).tolist() == [-0.5, 0.5, 1.0]
    assert clamp(x, None) is x


def test_centre_radius_and_rows():
    box = Box(torch.tensor([[0.0], [0.5], [1.0]]), torch.tensor([[0.5], [0.75], [1.0]]))
    assert box.centre.flatten().tolist() == [0.25, 0.625, 1.0]
    assert box.radius.flatten().tolist() == [0.25, 0.125, 0.0]
    assert box.rows(torch.tensor([2, 0])).lower.flatten().tolist() == [1.0, 0.0]
    assert box.rows(slice(0, 2)).upper.flatten().tolist() == [0.5, 0.75]


# ---------------------------------------------------------------------------- pairings


@pytest.mark.parametrize(("size", "batch"), [(2, 2), (2, 8), (3, 9), (5, 5), (5, 20), (7, 7)])
@pytest.mark.parametrize("include_self", [False, True])
def test_groups_hold_every_ordered_pair_exactly_once(size, batch, include_self):
    partners = Groups(size, include_self)(batch)
    pairs = [(i, j) for i, row in enumerate(partners.tolist()) for j in row]
    expected = {
        (i, j)
        for i in range(batch)
        for j in range(batch)
        if i // size == j // size and (include_self or i != j)
    }
    assert len(pairs) == len(expected) and set(pairs) == expected


@pytest.mark.parametrize(("count", "batch"), [(1, 2), (4, 5), (4, 6), (4, 128), (6, 7)])
@pytest.mark.parametrize("include_self", [False, True])
def test_shifts_show_each_input_distinct_others(count, batch, include_self):
    partners = Shifts(count, include_self)(batch)
    assert partners.shape == (batch, count + include_self)
    for i, row in enumerate(partners.tolist()):
        others = [j for j in row if j != i]
        assert len(set(others)) == len(others) == count
        assert row.count(i) == include_self
        assert all(0 <= j < batch for j in row)
    # every perturbation is used as often as any other
    assert partners.flatten().bincount().tolist() == [count + include_self] * batch


def test_defaults_are_those_of_the_paper():
    assert Groups()(5).shape == Shifts()(5).shape == (5, 4)


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Groups(1), r"group size is 1; expected at least 2"),
        (lambda: Groups(-3), r"group size is -3; expected at least 2"),
        (lambda: Groups(5)(4), r"group size 5 .* batch of 4; use a batch of at least 5"),
        (lambda: Groups(5)(13), r"batch of 13 .* groups of 5; use a multiple of 5 such as 10"),
        (lambda: Shifts(0), r"number of shifts is 0; expected at least 1"),
        (lambda: Shifts(4)(4), r"4 cyclic shifts need a batch of at least 5, got 4; use a larger"),
    ],
)
def test_impossible_pairings_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    "radius", [-0.1, float("nan"), float("inf"), torch.tensor([0.1, -0.2]),
               torch.tensor([0.1, float("nan")])]
)  # fmt: skip
def test_impossible_radii_are_refused(radius):
    with pytest.raises(InputError, match=r"radius is .*(-0\.|nan|inf).*; expected a finite number"):
        Box.around(torch.rand(1, 2), radius)
    with pytest.raises(InputError, match=r"^ε is .*expected a finite number >= 0, in pixel units"):
        check_radius(radius, "ε")


def test_zero_radius_is_a_point():
    x = torch.rand(3, 4)
    assert torch.equal(Box.around(x, 0.0).lower, x) and torch.equal(Box.around(x, 0).upper, x)


def test_shapes_that_do_not_fit_are_refused():
    x = torch.rand(4, 3)
    with pytest.raises(InputError, match=r"x has shape \(4, 3\) but v has \(4, 2\)"):
        cross_input_boxes(x, x[:, :2], 0.1, Shifts(1)(4))
    with pytest.raises(InputError, match=r"partners has shape \(5, 1\); expected \(4, m\)"):
        cross_input_boxes(x, x, 0.1, Shifts(1)(5))
    with pytest.raises(InputError, match=r"partners has shape \(4,\); expected \(4, m\)"):
        cross_input_boxes(x, x, 0.1, torch.arange(4))


def test_a_value_for_each_column_is_no_value_for_each_channel():
    x, three = torch.rand(4, 3, 3, 3), torch.tensor([0.1, 0.2, 0.3])
    for given in ({"radius": three}, {"radius": 0.1, "clip": (-three, three)}):
        with pytest.raises(InputError, match=r"one value a channel has the shape \(C, 1, 1\)"):
            Box.around(x, **given)
    assert Box.around(x, three.view(3, 1, 1), None).radius[0, :, 0, 0].tolist() == pytest.approx(
        three.tolist()
    )
    assert Box.around(x[:, 0, 0], three, None).radius[1].tolist() == pytest.approx(three.tolist())
