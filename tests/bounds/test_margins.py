"""Margins as a linear specification, and the loss on their lower bounds."""

import math

import pytest
import torch
import torch.nn.functional as F

from citrus_lirpa.bounds.checks import check_labels
from citrus_lirpa.bounds.margins import (
    logit_margins,
    robust_cross_entropy,
    specification,
    wrong_classes,
)
from citrus_lirpa.errors import InputError

LOGITS = torch.tensor([[3.0, 1.0, -2.0], [0.5, 0.25, 4.0], [1.0, 1.0, 0.0]])
LABELS = torch.tensor([0, 2, 1])


def test_hand_numbers_for_three_classes():
    assert wrong_classes(LABELS, 3).tolist() == [[1, 2], [0, 1], [0, 2]]
    assert specification(LABELS, 3).tolist() == [
        [[1, -1, 0], [1, 0, -1]],
        [[-1, 0, 1], [0, -1, 1]],
        [[-1, 1, 0], [0, 1, -1]],
    ]
    assert logit_margins(LOGITS, LABELS).tolist() == [[2.0, 5.0], [3.5, 3.75], [0.0, 1.0]]


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_specification_times_logits_are_the_margins(classes):
    logits, y = torch.randn(20, classes), torch.arange(20) % classes
    product = torch.einsum("nck,nk->nc", specification(y, classes), logits)
    torch.testing.assert_close(product, logit_margins(logits, y))
    for n, label in enumerate(y.tolist()):
        wrong = [c for c in range(classes) if c != label]
        expected = [(logits[n, label] - logits[n, c]).item() for c in wrong]
        assert logit_margins(logits, y)[n].tolist() == pytest.approx(expected)


def test_specification_takes_the_dtype_of_the_boxes():
    assert specification(LABELS, 3, torch.float64).dtype == torch.float64


def test_robust_cross_entropy_by_hand():
    margins = torch.tensor([[0.0, 0.0], [math.log(2), math.log(4)], [-3.0, 50.0]])
    expected = [math.log(3), math.log(1 + 1 / 2 + 1 / 4), math.log(1 + math.exp(3))]
    assert robust_cross_entropy(margins).tolist() == pytest.approx(expected, rel=1e-6)


def test_robust_cross_entropy_is_cross_entropy_of_the_worst_logits():
    margins = 5 * torch.randn(30, 9)
    worst = torch.cat([torch.zeros(30, 1), -margins], dim=1)
    expected = F.cross_entropy(worst, torch.zeros(30, dtype=torch.long), reduction="none")
    torch.testing.assert_close(robust_cross_entropy(margins), expected)


def test_on_exact_margins_it_is_the_plain_cross_entropy():
    expected = F.cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(robust_cross_entropy(logit_margins(LOGITS, LABELS)), expected)


def test_it_stays_finite_for_hopeless_bounds():
    margins = torch.full((1, 3), -1e4, requires_grad=True)
    robust_cross_entropy(margins).sum().backward()
    assert robust_cross_entropy(margins).item() == pytest.approx(1e4 + math.log(3))
    assert margins.grad.tolist() == [pytest.approx([-1 / 3] * 3, rel=1e-4)]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3, 1], r"labels range from 0 to 3; expected 0 to 2 for 3 classes"),
        ([-1, 2], r"labels range from -1 to 2; expected 0 to 2 for 3 classes"),
        ([0.0, 1.0], r"labels are torch\.float32 of shape \(2,\); expected torch\.int64"),
        ([True, False], r"labels are torch\.bool of shape \(2,\); expected torch\.int64"),
        ([[0, 1, 0]], r"labels are torch\.int64 of shape \(1, 3\); expected .* shape \(N,\)"),
    ],
)
def test_wrong_labels_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        check_labels(torch.tensor(labels), 3)


def test_valid_labels_pass():
    check_labels(LABELS, 3)
    check_labels(LABELS[:0], 3)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_labels_that_pass_give_the_same_margins(dtype):
    """Either refused by check_labels or understood; never another specification."""
    y = LABELS.to(dtype)
    try:
        check_labels(y, 3)
    except InputError:
        return
    assert torch.equal(specification(y, 3), specification(LABELS, 3))
    assert torch.equal(logit_margins(LOGITS, y), logit_margins(LOGITS, LABELS))
