"""SGD-UAP: perturbations of a data set and of its classes, where the best one is known."""

import math

import pytest
import torch
from torch import nn

from citrus_lirpa import BoundedNet, SgdUap, try_uap
from citrus_lirpa.attacks import universal as sgd_uap
from citrus_lirpa.errors import InputError

DIM = 6


def linear_net(rows: torch.Tensor) -> BoundedNet:
    """logits = rows @ (x - 1/2), for inputs (N, DIM)."""
    layer = nn.Linear(rows.shape[1], len(rows))
    with torch.no_grad():
        layer.weight.copy_(rows)
        layer.bias.copy_(-rows.sum(1) / 2)
    return BoundedNet(nn.Sequential(nn.Flatten(), layer), torch.rand(1, rows.shape[1]))


def labelled(net, n=300):
    """Images with the labels that the net gives them, but for each tenth one."""
    x = torch.rand(n, DIM)
    with torch.no_grad():
        y = net(x).argmax(1)
    y[::10] = (y[::10] + 1) % net.classes
    return x, y


@pytest.fixture
def net():
    return linear_net(torch.randn(4, DIM))


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_the_result_is_what_the_network_says(net, per_class, clip):
    x, y = labelled(net)
    result = SgdUap(epochs=2, clip=clip, per_class=per_class)(net, x, y, 0.1)
    assert result.u.shape == (4 if per_class else 1, DIM)
    assert result.u.abs().max() <= 0.1 + 1e-7 and not result.u.requires_grad
    right = wrong = 0
    for image, label, broken in zip(x, y.tolist(), result.broken.tolist(), strict=True):
        moved = image + result.u[label if per_class else 0]
        moved = moved if clip is None else moved.clamp(0, 1)
        with torch.no_grad():
            clean, after = net(torch.stack([image, moved])).argmax(1).tolist()
        right += clean == label
        wrong += clean == label != after
        assert broken == (clean == label != after)
    assert 0 < wrong < right == 270
    assert result.fooling_rate == pytest.approx(wrong / right)
    parts = [result.of_class(k) for k in range(4)]
    assert sum(int(part.broken.sum()) for part in parts) == wrong
    assert all(len(part.u) == 1 for part in parts)


def test_one_class_of_a_linear_classifier_gets_its_best_perturbation():
    """Every image of class 0 is moved along the sign of w₁ - w₀, and no other way."""
    w = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 0.25])
    net = linear_net(torch.stack([w, torch.zeros(DIM)]))
    x = torch.rand(400, DIM)
    margin = (x - 0.5) @ w
    eps = 0.06
    x, margin = x[margin > 0], margin[margin > 0]
    result = SgdUap()(net, x, torch.zeros(len(x), dtype=torch.long), eps)
    assert torch.equal(result.broken, margin < eps * w.abs().sum())
    hardest = margin[result.broken].max()
    assert hardest > 0.95 * eps * w.abs().sum()  # so that u can be little but the best
    best = SgdUap(per_class=True)(net, x, torch.zeros(len(x), dtype=torch.long), eps)
    torch.testing.assert_close(result.u, -eps * w.sign()[None])
    torch.testing.assert_close(best.u[0], -eps * w.sign())
    assert not best.u[1].any()  # no image of class 1


def test_two_classes_need_two_perturbations():
    w = torch.randn(DIM)
    net = linear_net(torch.stack([w, -w]))
    x, y = labelled(net)
    eps = 0.3
    together = SgdUap()(net, x, y, eps)
    apart = SgdUap(per_class=True)(net, x, y, eps)
    assert apart.fooling_rate > together.fooling_rate + 0.2
    for k, sign in ((0, -1), (1, 1)):
        far = apart.u[k] @ (sign * w)  # of 2 |w| ε at most
        assert far > 0.8 * eps * w.abs().sum()


def test_each_class_uses_its_own_images_alone(net, monkeypatch):
    x, y = labelled(net)
    seen = []
    monkeypatch.setattr(
        SgdUap, "loss", lambda self, logits, y: (seen.append(set(y.tolist())), logits.sum())[1]
    )
    SgdUap(epochs=1, restarts=1, batch_size=7, per_class=True)(net, x, y, 0.1)
    assert all(len(labels) == 1 for labels in seen)
    assert [labels for i, labels in enumerate(seen) if seen[i - 1] != labels] == [
        {0}, {1}, {2}, {3},
    ]  # fmt: skip


def test_the_loss_is_clamped_from_above():
    logits = torch.tensor([[0.0, 0.0], [0.0, 9.0], [0.0, 30.0]], requires_grad=True)
    y = torch.zeros(3, dtype=torch.long)
    loss = SgdUap(beta=2.0).loss(logits, y)
    assert loss.item() == pytest.approx((math.log(2) + 2 + 2) / 3)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0].abs().sum() > 0 and not gradient[1:].any()
    (gradient,) = torch.autograd.grad(SgdUap(beta=10.0).loss(logits, y), logits)
    assert gradient[1].abs().sum() > 0 and not gradient[2].any()


def test_no_epoch_that_was_measured_is_better(net, monkeypatch):
    x, y = labelled(net)
    rates = []
    predictions = sgd_uap.predictions

    def watched(*args, **options):
        found = predictions(*args, **options)
        if "rows" in options:
            rates.append(int((found != y[options["rows"]]).sum()))
        return found

    monkeypatch.setattr(sgd_uap, "predictions", watched)
    result = SgdUap(epochs=3, restarts=2)(net, x, y, 0.15)
    assert len(rates) == 2 * (3 + 1)  # before the first epoch, and after each
    assert int(result.broken.sum()) == max(rates) > min(rates)


def test_the_seed_decides_everything(net):
    x, y = labelled(net)
    attack = SgdUap(epochs=2, restarts=1, batch_size=32)
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(attack(net, x, y, 0.1).u)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_the_network_is_left_as_it_was(net):
    x, y = labelled(net, 20)
    net.train()
    SgdUap(epochs=1, restarts=1)(net, x, y, 0.1)
    assert net.training and all(p.grad is None for p in net.parameters())


def test_nothing_to_break_is_no_perturbation(net):
    x, y = labelled(net, 20)
    with torch.no_grad():
        wrong = (net(x).argmax(1) + 1) % 4
    result = SgdUap()(net, x, wrong, 0.3)
    assert result.fooling_rate == 0.0 and not result.u.any() and not result.correct.any()
    assert not SgdUap(epochs=1)(net, x, y, 0.0).broken.any()


@pytest.mark.parametrize("name", ["epochs", "step_size", "beta", "batch_size", "restarts"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_impossible_settings_are_refused(name, value):
    expected = "a number > 0" if name in ("step_size", "beta") else "at least 1"
    with pytest.raises(InputError, match=rf"SgdUap\.{name} is {value}; expected {expected}"):
        SgdUap(**{name: value})


def test_impossible_calls_are_refused(net):
    x, y = labelled(net, 8)
    for eps in (-0.1, math.nan):
        with pytest.raises(InputError, match=rf"ε is {eps}; expected a finite number >= 0"):
            SgdUap()(net, x, y, eps)
    with pytest.raises(InputError, match="8 inputs but 7 labels"):
        SgdUap()(net, x, y[1:], 0.1)
    with pytest.raises(InputError, match="0 inputs but 0 labels"):
        SgdUap()(net, x[:0], y[:0], 0.1)
    with pytest.raises(InputError, match="labels range from 0 to 4"):
        SgdUap()(net, x, torch.tensor([0, 4] * 4), 0.1)
    with pytest.raises(InputError, match=r"u has shape \(3, 6\); expected one .* or 4"):
        try_uap(net, x, y, torch.zeros(3, DIM))
