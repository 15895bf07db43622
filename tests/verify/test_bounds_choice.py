"""auto_LiRPA's bounds in place of this package's, where they are asked for."""

import copy

import pytest
import torch
from networks import QUICK, deep_net, images

from citrus_lirpa import BoundedNet, certify, certify_uap
from citrus_lirpa.errors import InputError


@pytest.fixture
def both():
    """The same network by its own bounds and by auto_LiRPA's, and images."""
    net = deep_net()
    x, y = images(net, 20)
    return net, BoundedNet(net.module, x[:1], bounds="auto-lirpa").eval(), x, y


def test_the_bounds_are_those_of_auto_lirpa(both):
    own, other, x, y = both
    a, b = (certify(net, x, y, 0.02, method="ibp") for net in (own, other))
    torch.testing.assert_close(a.margin, b.margin, rtol=1e-4, atol=1e-4)
    a, b = (certify(net, x, y, 0.02, method="crown").certified for net in (own, other))
    assert abs(int(a.sum()) - int(b.sum())) <= 1  # one may need more than rounding explains
    assert other.fast is None and own.fast is not None


def test_they_do_not_branch_and_prove_no_group_together(both):
    own, other, x, y = both
    a, b = (certify(net, x, y, 0.05, method="bab", time_limit=1) for net in (own, other))
    assert "do not branch" in b.unsupported["bab"] and not a.unsupported
    assert int(b.certified.sum()) < int(a.certified.sum())
    group = certify_uap(other, x, y, 0.05, certificates=b, time_limit=1, attack=QUICK)
    assert group.certified_accuracy >= float(b.certified.float().mean()) - 1e-9


def test_copies_keep_the_choice_and_other_names_are_refused(both):
    _, other, x, _ = both
    assert copy.deepcopy(other).bounds == "auto-lirpa" == other.in_float64().bounds
    with pytest.raises(InputError, match="unknown bounds 'lirpa'; did you mean 'auto-lirpa'"):
        BoundedNet(other.module, x, bounds="lirpa")
