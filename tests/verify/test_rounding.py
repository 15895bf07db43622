"""Certificates hold in real arithmetic, also where float32 would have them wrong."""

import pytest
import torch
from networks import deep_net, images
from torch import nn

from citrus_lirpa import BoundedNet, certify
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.crown.rounding import downward


def cancelling(margin):
    """A net that adds and takes away 256, times 64; its margin at x = 0.25 is ``margin``.

    Float32 knows numbers around 256 to 3e-5, which becomes 0.002 in the margin.
    """
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2)
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[1].bias.fill_(256.0)
        model[3].weight.copy_(torch.tensor([[64.0, -64.0]]))
        model[3].bias.zero_()
        model[5].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[5].bias.copy_(torch.tensor([margin - 16.0, 0.0]))
    return model.eval()


def test_numbers_are_rounded_down_to_the_smallest_and_the_largest():
    powers = 10.0 ** torch.arange(-60, 60, dtype=torch.float64)
    values = torch.cat([-1.1 * powers, 1.1 * powers])
    found = downward(values, torch.float32).double()
    assert bool((found <= values).all())
    usual = (values.abs() > 1e-30) & (values.abs() < 1e30)
    torch.testing.assert_close(found[usual], values[usual], rtol=3e-7, atol=0)


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
@pytest.mark.parametrize("method", ["ibp", "crown", "bab"])
@pytest.mark.parametrize("margin", [-1e-3, -1e-4, 1e-4, 1e-3])
def test_a_network_made_to_outwit_float32(margin, method, clip):
    model = cancelling(margin)
    x, y = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    net = BoundedNet(model, x).eval()
    found = certify(net, x, y, 0.25, method=method, clip=clip, time_limit=0.2)
    assert not (found.certified.any() and margin < 0)
    assert bool(found.certified) == (margin > 0)


def test_bounds_in_float32_are_below_those_in_float64():
    """Those in float64 are exact to 1e-9 here."""
    for seed in range(10):
        torch.manual_seed(seed)
        net = deep_net()
        x, y = images(net, 20)
        engine = DualEngine(net, Ball(0.1))
        single = engine.tightened(engine.ibp(x, y)[0])
        rows = torch.ones(20, 2, dtype=torch.bool)
        lower = engine.margins(single, rows, 0)[0]
        image, row = rows.nonzero(as_tuple=True)
        dual = engine.dual(single, image.unsqueeze(1), row.unsqueeze(1))
        every = torch.arange(len(image))
        exact = dual.rows(every, engine.exact_segments, torch.float64)
        value = exact(exact.start(), torch.ones(len(image), 1, dtype=torch.float64)).value
        assert (lower.flatten().double() < value).all()
        assert (lower.flatten().double() > value - 1e-3 * (1 + value.abs())).all()
