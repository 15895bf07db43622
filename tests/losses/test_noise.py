"""Losses under Gaussian noise and the UAP game, each against its formula written out."""

import pytest
import torch
import torch.nn.functional as F
from reference import EPS, batch, small_conv, small_mlp, wrapped

from citrus_lirpa.errors import InputError
from citrus_lirpa.losses import Gaussian, SmoothAdv, UapGame


def test_gaussian_trains_on_noisy_inputs():
    model, (x, y) = small_mlp(), batch()
    net = wrapped(model)
    torch.manual_seed(3)
    loss = Gaussian(sigma=0.3)(net, x, y, EPS)
    torch.manual_seed(3)
    expected = F.cross_entropy(model(x + 0.3 * torch.randn_like(x)), y)
    torch.testing.assert_close(loss.total, expected)


def test_smoothadv_raises_the_loss_of_the_mean_probability_within_its_ball():
    """One step is the ℓ2-normalised gradient of equation 6, on the samples that are trained on."""
    model, (x, y) = small_mlp(), batch()
    net = wrapped(model)
    torch.manual_seed(3)
    loss = SmoothAdv(2 * EPS, sigma=0.3, radius=0.4, samples=3, attack_steps=1, clip=None)
    total = loss(net, x, y, EPS).total
    torch.manual_seed(3)
    noise = torch.stack([0.3 * torch.randn_like(x) for _ in range(3)])
    v = torch.zeros_like(x, requires_grad=True)
    shares = torch.stack([model(x + v + n).softmax(1)[range(6), y] for n in noise]).mean(0)
    (gradient,) = torch.autograd.grad(-shares.log().sum(), v)
    norms = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    v = 0.2 * gradient / norms  # half the ramp: half the radius
    torch.testing.assert_close(
        total, torch.stack([F.cross_entropy(model(x + v + n), y) for n in noise]).mean()
    )


def test_game_trains_on_draws_from_perturbations_of_their_time():
    model, (x, y) = small_mlp(), batch()
    net, loss = wrapped(model), UapGame(climb=2, memory=3)
    torch.manual_seed(3)
    first = loss(net, x, y, EPS).perturbations
    torch.manual_seed(3)
    share = torch.empty_like(first).uniform_(-1, 1).sign().requires_grad_()
    attacked = F.cross_entropy(model((x + EPS * share).clamp(0, 1)), y)
    (gradient,) = torch.autograd.grad(attacked, share)
    expected = (share + 0.25 * gradient.sign()).clamp(-1, 1)
    torch.testing.assert_close(first, EPS * expected)
    counts = [len(loss(net, x, y, EPS).perturbations) for _ in range(8)]
    assert counts == [1, 2, 2, 3, 3, 3, 3, 3]  # the newest three


def test_a_perturbation_stays_as_it_is_once_it_has_climbed():
    net, (x, y), loss = wrapped(small_mlp()), batch(), UapGame(climb=1, memory=5)
    first = loss(net, x, y, EPS).perturbations[0]
    assert torch.equal(loss(net, x, y, EPS).perturbations[0], first)


def test_state_of_the_game_continues():
    (x, y), one, other = batch(), UapGame(climb=2), UapGame(climb=2)
    net = wrapped(small_conv())
    one(net, x, y, EPS)
    other.load_state_dict(one.state_dict())
    totals = []
    for loss in (one, other):
        torch.manual_seed(5)
        totals.append(loss(net.eval(), x, y, EPS).total)
    assert totals[0] == totals[1]
    with pytest.raises(TypeError, match="shares of ε"):
        other.set_extra_state({"kept": torch.full((1, 2), 2.0), "climbed": 1})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(sigma=0), "sigma is 0"),
        (lambda: SmoothAdv(EPS, sigma=-1), "sigma is -1"),
        (lambda: SmoothAdv(EPS, radius=0), "radius is 0"),
        (lambda: SmoothAdv(EPS, samples=0), "samples is 0"),
        (lambda: UapGame(climb=0), "climb is 0"),
        (lambda: UapGame(memory=0.5), "memory is 0.5"),
    ],
)
def test_options_that_cannot_be_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
