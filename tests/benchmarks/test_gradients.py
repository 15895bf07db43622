"""What benchmarks/gradients.py compares: a cosine for each loss, and weights left as they are."""

import copy

import pytest
from reference import EPS, batch, small_conv, wrapped

from citrus_lirpa import Citrus


@pytest.fixture
def gradients(script):
    return script("gradients")


def test_cosines_are_of_the_gradients_and_the_network_stays(gradients):
    net, (x, y) = wrapped(small_conv()), batch(24)
    before = copy.deepcopy(net.module.state_dict())
    found = gradients.cosines(net, x, y, EPS, 0.4)
    assert set(gradients.losses(0.4)) < set(found)
    assert all(-1.001 <= value <= 1.001 for value in found.values())
    assert found["20 steps, another start"] > 0.9 > found["another batch"]
    assert all(bool((net.module.state_dict()[key] == v).all()) for key, v in before.items())


def test_the_gradient_is_that_of_the_loss(gradients):
    net, (x, y) = wrapped(small_conv()), batch(12)
    loss = Citrus(0.4, attack=gradients.nothing)
    flat = gradients.gradient(net, loss, x, y, EPS, 0)
    loss(net.train(), x, y, EPS).backward()
    expected = [p.grad.flatten() for p in net.parameters()]
    assert sum(len(part) for part in expected) == len(flat)
    assert float((flat[: len(expected[0])] - expected[0]).abs().max()) < 1e-5
