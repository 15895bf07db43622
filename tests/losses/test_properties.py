"""Properties every loss has."""

import copy

import pytest
import torch
import torch.nn.functional as F
from reference import (
    CLASSIFYING,
    EPS,
    MODELS,
    STD,
    TAU_RATIO,
    VARIANTS,
    batch,
    clean_statistics,
    every_loss,
    gradients,
    interval_margins,
    make,
    small_conv,
    wrapped,
)

from citrus_lirpa.attacks import PGD
from citrus_lirpa.bounds import lirpa as _compat
from citrus_lirpa.bounds.box import Box
from citrus_lirpa.bounds.margins import logit_margins
from citrus_lirpa.bounds.net import BoundedNet
from citrus_lirpa.losses import (
    Adversarial,
    CcIbp,
    Citrus,
    Colt,
    CrossEntropy,
    CrownIbp,
    ExpIbp,
    Gaussian,
    Ibp,
    LossTerms,
    MtlIbp,
    Sabr,
    SmoothAdv,
    Taps,
    UapGame,
    Uat,
)
from citrus_lirpa.losses.cross_input import Shifts


@pytest.mark.parametrize("loss", [Ibp(), Citrus(TAU_RATIO, reduction="mean")])
def test_any_loss_of_logits_takes_the_worst_ones(loss):
    model, (x, y) = small_conv(), batch()
    terms = loss(wrapped(model), x, y, EPS)
    worst = terms.worst_logits(y)
    assert worst.shape == (6, terms.margins.shape[1], 3)
    assert torch.equal(logit_margins(worst[:, 0], y), terms.margins[:, 0])
    labels = y.unsqueeze(1).expand(worst.shape[:2])
    each = F.cross_entropy(worst.flatten(0, 1), labels.flatten(), reduction="none")
    torch.testing.assert_close(each.mean(), terms.total.as_subclass(torch.Tensor))
    weights = torch.tensor([0.0, 1.0, 2.0])
    F.cross_entropy(worst.flatten(0, 1), labels.flatten(), weight=weights).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@every_loss
@pytest.mark.parametrize("network", MODELS)
def test_every_gradient_is_finite(name, network):
    model, (x, y) = MODELS[network](), batch()
    terms = make(name)(wrapped(model), x, y, EPS)
    assert terms.total.shape == () and terms.logits.shape == (6, 3)
    terms.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad.abs().max() > 1e-4 for p in model[-1].parameters())


@every_loss
@pytest.mark.parametrize("network", MODELS)
def test_no_point_of_a_box_beats_its_margins(name, network):
    model, (x, y) = MODELS[network](), batch()
    net, statistics = wrapped(model), clean_statistics(model, x)
    terms = make(name)(net, x, y, EPS)
    if terms.margins is None:
        assert name in ("pgd", "uat", "cw-uat", "uap-game", "gaussian", "smoothadv", "colt", "ce")
        assert terms.certified().isnan()
        return
    labels = y.repeat_interleave(len(terms.box) // 6)
    for share in (torch.rand_like(terms.box.lower).round(), torch.rand_like(terms.box.lower)):
        points = torch.lerp(*terms.box, share).detach()
        for n, point in enumerate(points.split(1)):
            exact = interval_margins(model, statistics, point, point, labels[n])
            assert (terms.margins.flatten(0, 1)[n] <= exact + 1e-4).all()


@every_loss
@pytest.mark.parametrize("eps", [EPS, torch.tensor([0.2, 0.05]).view(2, 1, 1)])
def test_every_box_and_perturbation_lies_in_the_ball(name, eps):
    """Boxes of universal perturbations too, and in every channel by its own radius."""
    net, (x, y) = wrapped(small_conv()), batch()
    terms = make(name, float(torch.as_tensor(eps).max()))(net, x, y, eps)
    own = x.repeat_interleave(len(terms.box) // 6, dim=0)
    lower, upper = terms.box
    assert (0 <= lower).all() and (lower <= upper).all() and (upper <= 1).all()
    assert (lower >= own - eps - 1e-6).all() and (upper <= own + eps + 1e-6).all()
    attacked = 2.1 * eps if "wider" in name else eps
    if terms.perturbations is not None:
        assert (terms.perturbations.abs() <= attacked + 1e-6).all()
        assert not terms.perturbations.requires_grad


def test_tau_equal_to_eps_is_ibp_once_for_every_partner():
    net, (x, y) = wrapped(small_conv()), batch(7)
    ibp = Ibp()(net, x, y, EPS).item()
    assert Citrus(1.0, pairing=Shifts(3))(net, x, y, EPS).item() == pytest.approx(3 * ibp)


def test_the_own_box_alone_is_that_of_sabr_where_no_range_cuts_it():
    net, (x, y) = wrapped(small_conv()), batch()
    v = (EPS - TAU_RATIO * EPS) * torch.randn_like(x).sign()
    common = dict(attack=lambda net, x, y, eps: v, clip=None)
    own = Citrus(TAU_RATIO, pairing=Shifts(0, include_self=True), **common)(net, x, y, EPS)
    assert own.item() == pytest.approx(Sabr(TAU_RATIO, **common)(net, x, y, EPS).item())


def test_tighter_bounds_give_a_lower_loss():
    net, (x, y), totals = wrapped(small_conv()), batch(), []
    for method in ("crown", "crown-ibp", "ibp"):
        torch.manual_seed(5)
        totals.append(Citrus(TAU_RATIO, pairing=Shifts(2), method=method)(net, x, y, EPS).item())
    assert totals[0] < totals[1] < totals[2]


@every_loss
@pytest.mark.parametrize("eps", [0, 0.0, torch.zeros(2, 1, 1)])
def test_eps_zero_is_natural_cross_entropy(name, eps, monkeypatch):
    monkeypatch.setattr(PGD, "perturb", lambda *_: pytest.fail("attacked"))
    model, (x, y) = small_conv(), batch()
    net = wrapped(model)
    terms = make(name)(net, x, y, eps)
    expected = F.cross_entropy(copy.deepcopy(model)(x), y)
    torch.testing.assert_close(terms.total, expected)
    terms.backward()
    assert model[1].weight.grad.abs().max() > 0
    torch.testing.assert_close(terms.margins.squeeze(1), logit_margins(terms.logits, y))
    assert (terms.box.radius <= 1.1e-6).all() and (terms.box.centre - x).abs().max() <= 2e-6


#: What the losses without certificates run on, from the perturbations that they tried.
PERTURBED = {
    "pgd": lambda x, y, v: x + v,
    "uat": lambda x, y, u: (x + u).clamp(0, 1),
    "cw-uat": lambda x, y, u: (x + u[y]).clamp(0, 1),
}


@pytest.mark.parametrize(
    "name", sorted({*CLASSIFYING, *VARIANTS} - {"gaussian", "smoothadv", "uap-game"})
)
def test_running_statistics_move_once_by_the_clean_batch(name):
    """Or by the perturbed one, where the loss runs on nothing else and says on what."""
    model, (x, y) = small_conv(), batch()
    net = wrapped(model)
    before = {layer: (layer.running_mean.clone(), layer.running_var.clone())
              for layer in clean_statistics(model, x)}  # fmt: skip
    tried = make(name)(net, x, y, EPS).perturbations
    seen = PERTURBED[name](x, y, tried) if name in PERTURBED else x
    statistics = clean_statistics(model, seen)
    values_a_channel = 6 * 25, 6 * 4, 6
    for count, (layer, (mean, variance)) in zip(values_a_channel, statistics.items(), strict=True):
        unbiased = variance * count / (count - 1)
        old_mean, old_var = before[layer]
        torch.testing.assert_close(layer.running_mean, 0.9 * old_mean + 0.1 * mean)
        torch.testing.assert_close(layer.running_var, 0.9 * old_var + 0.1 * unbiased)


@every_loss
def test_a_users_bounded_module_gives_the_same(name, double):
    model, (x, y) = small_conv(normalise=False), batch()
    ours = wrapped(model)
    theirs_model = copy.deepcopy(model).eval()
    with _compat.parsing():
        theirs = _compat.load().BoundedModule(theirs_model, x[:1])
    theirs.train()
    results = []
    for net, parameters in ((ours, model), (theirs, theirs_model)):
        torch.manual_seed(6)
        terms = make(name)(net, x, y, EPS)
        results.append((terms.total, gradients(terms.total, parameters)))
    running = [value for key, value in model.named_buffers() if "running" in key]
    torch.testing.assert_close(list(theirs.buffers()), running)
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


#: Every class of losses, for data in another range: (ε_max, range).
CLIPPED = {
    Citrus: lambda max_eps, clip: Citrus(TAU_RATIO, universal=2, worst=3, alpha=0.5, clip=clip),
    Ibp: lambda max_eps, clip: Ibp(clip=clip),
    CrownIbp: lambda max_eps, clip: CrownIbp(2 * max_eps, clip=clip),
    Sabr: lambda max_eps, clip: Sabr(TAU_RATIO, clip=clip),
    Taps: lambda max_eps, clip: Taps(max_eps, tau_ratio=TAU_RATIO, clip=clip),
    MtlIbp: lambda max_eps, clip: MtlIbp(0.3, clip=clip),
    CcIbp: lambda max_eps, clip: CcIbp(0.3, clip=clip),
    ExpIbp: lambda max_eps, clip: ExpIbp(0.3, clip=clip),
    Adversarial: lambda max_eps, clip: Adversarial(clip=clip),
    Uat: lambda max_eps, clip: Uat(per_class=True, clip=clip),
    Colt: lambda max_eps, clip: Colt(clip=clip),
    UapGame: lambda max_eps, clip: UapGame(clip=clip),
    CrossEntropy: lambda max_eps, clip: CrossEntropy(clip=clip),
}


def test_no_class_is_left_out_of_the_next_test():
    """But for noise, which is in units of the data."""
    kinds = {type(make(name)) for name in CLASSIFYING}
    assert kinds - {Gaussian, SmoothAdv} == set(CLIPPED)


@pytest.mark.parametrize("kind", CLIPPED)
def test_normalised_data_gives_the_same_as_pixels(kind, double):
    model, (x, y) = small_conv(), batch()
    pixels, core = wrapped(model), copy.deepcopy(model)[1:]
    mean, std = model[0].mean, model[0].std
    normal_x, clip = (x - mean) / std, ((0 - mean) / std, (1 - mean) / std)
    normalised = BoundedNet(core, normal_x).train()
    torch.manual_seed(7)
    expected = CLIPPED[kind](EPS, (0.0, 1.0))(pixels, x, y, EPS).total
    torch.manual_seed(7)
    got = CLIPPED[kind](EPS / min(STD), clip)(normalised, normal_x, y, EPS / std).total
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        gradients(got, core), gradients(expected, model), atol=1e-5, rtol=1e-4
    )


def test_certified_counts_boxes_and_their_error_inputs():
    margins = torch.tensor([[0.1, 0.2], [0.0, 1.0], [3.0, 1.0], [0.001, 5.0], [-1.0, 2.0], [2, -2]])
    terms = LossTerms(torch.zeros(()), torch.zeros(3, 3), Box(margins, margins), margins)
    assert terms.margins.shape == (3, 2, 2)
    assert terms.certified().item() == pytest.approx(3 / 6)
    assert terms.certified_error().item() == pytest.approx(2 / 3)
    assert LossTerms(torch.zeros(()), torch.zeros(3, 3), terms.box).certified_error().isnan()


def _gradient_of(use, kind=Citrus):
    """The gradient that a script's own use of the loss leaves at the first weight."""
    torch.manual_seed(0)
    net, (x, y) = wrapped(small_conv()), batch()
    use(lambda eps=EPS: kind(TAU_RATIO)(net, x, y, eps))
    return next(net.module.parameters()).grad


SCALER = torch.amp.GradScaler("cpu", init_scale=8.0)
#: What scripts do with a loss, and how much of its gradient reaches the weights.
USES = {
    "sum": (lambda loss: (loss() + 0.0).backward(), 1),
    "from the right": (lambda loss: (1 + 0.5 * loss()).backward(), 0.5),
    "in place": (lambda loss: loss().div_(4).backward(), 0.25),
    "autograd": (lambda loss: torch.autograd.backward(loss()), 1),
    "scaler": (lambda loss: SCALER.scale(loss()).backward(), 8),
}  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_the_loss_is_the_scalar_that_it_stands_for(use):
    function, factor = USES[use]
    expected = _gradient_of(lambda loss: loss().total.backward())
    torch.testing.assert_close(_gradient_of(function), factor * expected)


def test_losses_are_summed_compared_and_printed_as_tensors_are():
    net, (x, y) = wrapped(small_conv()), batch()
    loss, natural = (Citrus(TAU_RATIO)(net, x, y, eps) for eps in (EPS, 0))
    total = loss.item()
    both = sum([loss, natural])
    assert type(both) is type(loss.detach()) is torch.Tensor
    assert both.item() == pytest.approx(total + natural.item())
    assert (
        loss > natural and not torch.isnan(loss) and not loss.isinf() and max(natural, loss) is loss
    )
    assert float(loss.detach()) == loss.detach().numpy() == loss.tolist() == total
    assert f"{loss:.3f}" == f"{total:.3f}" and repr(loss) == str(loss) == f"{loss}"
    both.backward()
    assert next(net.module.parameters()).grad.abs().max() > 0
