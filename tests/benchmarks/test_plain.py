"""What benchmarks/speed.py compares with computes the same as the package."""

import pytest
import torch
from reference import SHAPE, batch, small_conv, wrapped

from citrus_lirpa import PGD, Box, Citrus, Groups
from citrus_lirpa.bounds.margins import wrong_classes

EPS, TAU = 0.1, 0.04


@pytest.fixture
def plain(script):
    return script("plain")


def test_plain_steps_bound_what_the_package_bounds(plain, double):
    net, (x, y) = wrapped(small_conv()), batch()
    by_hand = plain.Plain(net.module, attack_steps=3, partners=2, eps=EPS)
    margins = by_hand.margins(by_hand.clean_pass(x), x, torch.full_like(x, TAU), y)
    net(x)
    expected = net.margins(Box(x - TAU, x + TAU), y)
    torch.testing.assert_close(margins.gather(1, wrong_classes(y, 3)), expected)
    v = by_hand.attack(x, y)
    assert v.shape == (6, *SHAPE) and 0 < float(v.abs().max()) <= EPS + 1e-9
    before = [p.clone() for p in net.parameters()]
    by_hand.step(x, y, TAU)
    assert not any(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))


def test_the_double_loop_is_the_loss(plain, double):
    net, (x, y) = wrapped(small_conv()), batch()
    found = PGD(steps=2)(net, x, y, EPS - TAU)

    def attack(*_):
        return found

    rate = torch.optim.SGD(net.parameters(), lr=0.0)  # leaves weights and gradients as they are
    pairing = Groups(3)
    plain.literal_step(net, rate, attack, x, y, pairing(6), eps=EPS, tau=TAU)
    literal = [p.grad.clone() for p in net.parameters()]
    rate.zero_grad()
    Citrus(TAU / EPS, pairing=pairing, attack=attack)(net, x, y, EPS).backward()
    gradients = [p.grad for p in net.parameters()]
    torch.testing.assert_close(literal, gradients, atol=1e-9, rtol=1e-6)
