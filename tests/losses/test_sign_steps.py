"""CITRUS with one full sign step in the first part of the training."""

import torch
from reference import EPS, SHAPE, TAU_RATIO, batch, small_mlp, wrapped

from citrus_lirpa import PGD, Citrus
from citrus_lirpa.losses import LOSSES
from citrus_lirpa.training.config import resolve

RADIUS = EPS * (1 - TAU_RATIO)


def perturbations(loss, net):
    torch.manual_seed(3)
    x, y = batch()
    x = 0.3 + 0.4 * x  # no pixel is cut
    return loss(net, x, y, EPS).perturbations


def test_the_first_part_takes_one_step_to_a_corner_and_the_rest_the_attack():
    net, loss = wrapped(small_mlp()), Citrus(TAU_RATIO, sign_steps=0.5)
    for done in (0.0, 0.49):
        loss.begin_step(net, done, EPS)
        early = perturbations(loss, net)
        corners = (early.abs() - RADIUS).abs() < 1e-6
        assert early.shape == (6, *SHAPE) and float(corners.float().mean()) > 0.95
    loss.begin_step(net, 0.5, EPS)
    attack = perturbations(loss, net)
    assert torch.equal(attack, perturbations(Citrus(TAU_RATIO), net))
    assert not torch.equal(attack, early)


def test_the_step_is_that_of_the_gradient_at_the_start():
    net, loss = wrapped(small_mlp()), Citrus(TAU_RATIO, sign_steps=1.0)
    assert torch.equal(
        perturbations(loss, net),
        perturbations(Citrus(TAU_RATIO, attack=PGD(steps=1, step_size=2.0)), net),
    )


def test_trainings_tell_the_loss_how_far_they_are():
    """By the option of a configuration, which a loss that attacks otherwise does not have."""
    settings = resolve(preset="digits", overrides=["loss.sign_steps=0.25"])
    assert settings.loss["sign_steps"] == 0.25
    assert LOSSES["citrus"](0.1, tau_ratio=0.4, sign_steps=0.25).sign_steps == 0.25
