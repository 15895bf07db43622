"""Radii and ranges of certificates: in the units that training takes, or refused."""

import pytest
import torch
from networks import QUICK, images, small_net

from citrus_lirpa import certify, certify_uap
from citrus_lirpa.errors import InputError


@pytest.fixture
def small():
    net = small_net()
    return net, *images(net, 10)


def test_a_radius_may_be_a_tensor_of_one_number(small):
    net, x, y = small
    eps = torch.tensor(0.03, dtype=torch.float64)
    assert torch.equal(certify(net, x, y, eps).margin, certify(net, x, y, 0.03).margin)
    assert certify_uap(net, x, y, eps, attack=QUICK).size.sum() == 10
    assert certify(net, x, y, torch.tensor([0.03], dtype=torch.float64)).eps == 0.03
    for bad in (torch.tensor(-0.1), torch.tensor(float("nan"))):
        with pytest.raises(InputError, match="expected a finite number"):
            certify(net, x, y, bad)


def test_a_range_that_the_images_leave_is_refused(small):
    """Normalised data, cut to [0, 1], would be other images."""
    net, x, y = small
    for certified in (certify, certify_uap):
        with pytest.raises(
            InputError, match=r"images range from .* outside the valid range 0.0 to"
        ):
            certified(net, 3 * x - 1, y, 0.03, clip=(0.0, 1.0))
    assert certify(net, 3 * x - 1, y, 0.03, clip=(-1.0, 2.0)).correct.shape == (10,)
