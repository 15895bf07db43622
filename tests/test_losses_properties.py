"""Properties every loss has, and the calls it refuses."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from reference import (
    EPS,
    MODELS,
    SHAPE,
    TAU_RATIO,
    batch,
    clean_statistics,
    gradients,
    interval_margins,
    model_names,
    small_conv,
    small_mlp,
    wrapped,
)
from torch import nn

from citrus_lirpa import _compat
from citrus_lirpa.attacks import PGD
from citrus_lirpa.bounds import BoundedNet
from citrus_lirpa.boxes import Box, Groups, Shifts
from citrus_lirpa.errors import ConfigError, InputError
from citrus_lirpa.losses import LOSSES, Citrus, Ibp, LossTerms
from citrus_lirpa.margins import robust_cross_entropy


def test_tau_equal_to_eps_is_ibp_once_for_every_partner():
    net, (x, y) = wrapped(small_conv()), batch(7)
    ibp = Ibp()(net, x, y, EPS).item()
    assert Citrus(1.0, pairing=Shifts(3))(net, x, y, EPS).item() == pytest.approx(3 * ibp)


@model_names
def test_every_method_is_an_upper_bound_with_finite_gradients(name):
    model, (x, y), totals = MODELS[name](), batch(), {}
    net, statistics = wrapped(model), clean_statistics(model, x)
    labels = y.repeat_interleave(2)
    for method in ("ibp", "crown-ibp", "crown"):
        torch.manual_seed(5)
        terms = Citrus(TAU_RATIO, pairing=Shifts(2), method=method)(net, x, y, EPS)
        losses = robust_cross_entropy(terms.margins)
        totals[method] = terms.item()
        assert terms.item() == pytest.approx(losses.sum().item() / 6, rel=1e-5)
        for _ in range(3):
            share = torch.rand_like(terms.box.lower).round()
            points = torch.lerp(*terms.box, share)
            for n, point in enumerate(points.split(1)):
                exact = interval_margins(model, statistics, point, point, labels[n])
                assert (terms.margins[n] <= exact + 1e-4).all()
                assert losses[n] >= torch.log(1 + torch.exp(-exact).sum()) - 1e-4
        grads = gradients(terms.total, model)
        assert all(torch.isfinite(g).all() for g in grads)
        assert sum(g.abs().sum() for g in grads) > 0.1
    assert totals["crown"] < totals["crown-ibp"] < totals["ibp"]


@pytest.mark.parametrize("loss", [Citrus(attack=lambda *_: pytest.fail("attacked")), Ibp()])
@pytest.mark.parametrize("eps", [0, 0.0, torch.zeros(2, 1, 1)])
def test_eps_zero_is_natural_cross_entropy(loss, eps):
    model, (x, y) = small_conv(), batch()
    net = wrapped(model)
    terms = loss(net, x, y, eps)
    expected = F.cross_entropy(copy.deepcopy(model)(x), y)
    torch.testing.assert_close(terms.total, expected)
    terms.backward()
    assert model[1].weight.grad.abs().max() > 0
    assert terms.margins is None and terms.certified().isnan()
    assert (terms.box.radius <= 1.1e-6).all() and (terms.box.centre - x).abs().max() <= 2e-6


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
@pytest.mark.parametrize("loss", [Citrus, Ibp])
def test_running_statistics_move_once_by_the_clean_batch(loss, method):
    model, (x, y) = small_conv(), batch()
    net = wrapped(model)
    statistics = clean_statistics(model, x)
    before = {layer: (layer.running_mean.clone(), layer.running_var.clone())
              for layer in statistics}  # fmt: skip
    loss(method=method)(net, x, y, EPS)
    values_a_channel = 6 * 25, 6 * 4, 6
    for count, (layer, (mean, variance)) in zip(values_a_channel, statistics.items(), strict=True):
        unbiased = variance * count / (count - 1)
        old_mean, old_var = before[layer]
        torch.testing.assert_close(layer.running_mean, 0.9 * old_mean + 0.1 * mean)
        torch.testing.assert_close(layer.running_var, 0.9 * old_var + 0.1 * unbiased)


@pytest.mark.parametrize("loss", [Citrus(TAU_RATIO, pairing=Shifts(2)), Ibp()])
def test_a_users_bounded_module_gives_the_same(loss, double):
    model, (x, y) = small_conv(normalise=False), batch()
    ours = wrapped(model)
    theirs_model = copy.deepcopy(model).eval()
    with _compat.parsing():
        theirs = _compat.load().BoundedModule(theirs_model, x[:1])
    theirs.train()
    results = []
    for net, parameters in ((ours, model), (theirs, theirs_model)):
        torch.manual_seed(6)
        terms = loss(net, x, y, EPS)
        results.append((terms.total, gradients(terms.total, parameters)))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("loss", [Citrus, Ibp])
def test_normalised_data_gives_the_same_as_pixels(loss, double):
    model, (x, y) = small_conv(), batch()
    pixels, core = wrapped(model), copy.deepcopy(model)[1:]
    mean, std = model[0].mean, model[0].std
    normal_x, clip = (x - mean) / std, ((0 - mean) / std, (1 - mean) / std)
    normalised = BoundedNet(core, normal_x).train()
    torch.manual_seed(7)
    expected = loss()(pixels, x, y, EPS).total
    torch.manual_seed(7)
    got = loss(clip=clip)(normalised, normal_x, y, EPS / std).total
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        gradients(got, core), gradients(expected, model), atol=1e-5, rtol=1e-4
    )


def test_certified_counts_boxes_with_every_margin_positive():
    margins = torch.tensor([[0.1, 0.2], [0.0, 1.0], [3.0, -1.0], [0.001, 5.0], [2.0, 2.0]])
    terms = LossTerms(torch.zeros(()), torch.zeros(5, 3), Box(margins, margins), margins)
    assert terms.certified().item() == pytest.approx(3 / 5)


def test_losses_by_name():
    loss = LOSSES["citrus"](EPS, tau_ratio=0.3, pairing="groups", partners=2, include_self=True,
                            method="crown", reduction="max", attack_steps=3, attack_step_size=0.1,
                            attack_restarts=2)  # fmt: skip
    assert (loss.tau_ratio, loss.method, loss.reduction) == (0.3, "crown", "max")
    assert loss.pairing == Groups(3, True) and loss.attack == PGD(3, 0.1, 2)
    assert LOSSES["citrus"](EPS, tau_ratio=0.3).pairing == Shifts(4)
    assert LOSSES["ibp"](EPS, method="crown-ibp").method == "crown-ibp"
    with pytest.raises(ConfigError, match=r"unknown pairing 'group'.*groups"):
        LOSSES["citrus"](EPS, tau_ratio=0.3, pairing="group")


# -------------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize("tau_ratio", [0, -0.5, 1.01, float("nan")])
def test_impossible_ratios_are_refused(tau_ratio):
    with pytest.raises(InputError, match=rf"tau_ratio is {tau_ratio}; expected .*\(0, 1\]"):
        Citrus(tau_ratio)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match=r"unknown reduction 'median'.*sum, mean, max"):
        Citrus(0.5, reduction="median")
    for loss in (Citrus, Ibp):
        with pytest.raises(InputError, match=r"unknown method 'inf'.*ibp, crown-ibp, crown"):
            loss(method="inf")(wrapped(small_mlp()), *batch(), EPS)


@pytest.mark.parametrize("loss", [Citrus, Ibp])
def test_a_method_without_gradients_is_no_training_loss(loss):
    """alpha-crown's bounds are detached: nothing would be learnt from them."""
    with pytest.raises(InputError, match=r"alpha-crown"):
        loss(method="alpha-crown")(wrapped(small_mlp()), *batch(), EPS)


BAD_CALLS = {
    "label too high": (dict(y=[0, 1, 3]), r"labels range from 0 to 3; expected 0 to 2"),
    "label negative": (dict(y=[0, -1, 2]), r"labels range from -1 to 2"),
    "labels not integers": (dict(y=[0.0, 1.0, 2.0]), r"labels are torch\.float32"),
    "a label missing": (dict(y=[0, 1]), r"3 inputs but 2 labels"),
    "no inputs": (dict(x=torch.rand(0, *SHAPE), y=[]), r"0 inputs but 0 labels"),
    "pixels of 0 to 255": (dict(x=torch.full((3, *SHAPE), 255.0)), r"images range from 255 to 255, "
                           r"outside the valid range 0\.0 to 1\.0; pass pixels in \[0, 1\]"),
    "pixels below 0": (dict(x=torch.full((3, *SHAPE), -0.5)), r"images range from -0\.5 to -0\.5"),
    "NaN pixels": (dict(x=torch.full((3, *SHAPE), math.nan)), r"images range from nan to nan"),
    "negative ε": (dict(eps=-0.25), r"ε is -0\.25; expected a finite number >= 0"),
    "ε in a channel": (dict(eps=torch.tensor([0.1, -0.5]).view(2, 1, 1)), r"-0\.5(.|\n)*expected"),
    "NaN ε": (dict(eps=math.nan), r"ε is nan; expected a finite number >= 0"),
    "plain model": (dict(net=nn.Flatten()), r"got Flatten; wrap the model first: BoundedNet\("),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CALLS)
@pytest.mark.parametrize("loss", [Citrus(pairing=Shifts(2)), Ibp()])
def test_bad_calls_are_refused_naming_the_value(loss, case):
    changes, message = BAD_CALLS[case]
    good = dict(net=wrapped(small_mlp()), x=torch.rand(3, *SHAPE), y=[0, 1, 2], eps=EPS)
    arguments = good | changes
    with pytest.raises(InputError, match=message):
        loss(arguments["net"], arguments["x"], torch.tensor(arguments["y"]), arguments["eps"])


def test_an_attack_with_another_range_is_refused_or_harmless():
    """clip of the loss and of the attack differ: its v would leave B(0, ε) unnoticed."""
    x, y = 3 * torch.rand(3, *SHAPE), torch.arange(3)
    loss = Citrus(0.5, attack=PGD(steps=2), pairing=Shifts(2), clip=(0.0, 3.0))
    net = wrapped(small_mlp())
    try:
        centre = loss(net, x, y, EPS).box.centre
    except InputError as error:
        assert "clip" in str(error)
        return
    assert (centre - x.repeat_interleave(2, dim=0)).abs().max() <= EPS + 1e-6


def test_labels_of_32_bits_are_refused_or_understood():
    (x, y), totals = batch(), []
    net = wrapped(small_mlp())
    for labels in (y, y.int()):
        torch.manual_seed(8)
        try:
            totals.append(Citrus()(net, x, labels, EPS).item())
        except InputError:
            assert labels is not y
    assert set(totals) == {totals[0]}


def test_too_small_a_batch_is_refused():
    with pytest.raises(InputError, match=r"4 cyclic shifts need a batch of at least 5, got 3"):
        Citrus()(wrapped(small_mlp()), *batch(3), EPS)


def test_images_at_the_ends_of_the_range_pass():
    x = torch.rand(3, *SHAPE).round() * (1 + 1e-6)  # rounding errors of a data pipeline
    assert math.isfinite(Ibp()(wrapped(small_mlp()), x, torch.arange(3), EPS).item())
    assert Ibp(clip=None)(wrapped(small_mlp()), 9 * x, torch.arange(3), EPS).item() > 0
