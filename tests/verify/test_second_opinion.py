"""What auto_LiRPA proves is attacked (on affine models: the lowest margin); which breaks count."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from citrus_lirpa import BoundedNet, certify
from citrus_lirpa.bounds import METHODS, allowed, selfcheck
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.errors import SoundnessError
from citrus_lirpa.verify.second_opinion import confirmed

EPS = 0.1


@pytest.fixture
def affine():
    """A net, images, labels, and the lowest margins: m(x) - ε |w_y - w_c|, summed over pixels."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    x = torch.rand(20, 1, 4, 4)
    logits, weight = model(x).detach(), model[1].weight.detach()
    y = logits.argmax(1)
    margins = logits.gather(1, y[:, None]) - logits
    lowest = margins - EPS * (weight[y].unsqueeze(1) - weight).abs().sum(2)
    others = torch.ones_like(lowest, dtype=torch.bool).scatter(1, y[:, None], False)
    return BoundedNet(model, x[:1]), x, y, lowest[others].view(20, 2).amin(1)


def too_hopeful(net, by: float):
    """Let the bounds of ``net`` be wrong by so much."""
    bound = net.bound_unchecked

    def wrong(*args):
        found = bound(*args)
        return found if found.margins is None else replace(found, margins=found.margins + by)

    net.bound_unchecked = wrong


def test_wrong_proofs_are_contradicted(affine):
    net, x, y, lowest = affine
    broken = (lowest < 0).nonzero().flatten().tolist()
    assert 3 < len(broken) < 20
    too_hopeful(net, by=100.0)
    message = f"breaks {len(broken)} inputs.*first: number {broken[0]}, by ibp.*report it with the"
    with pytest.raises(SoundnessError, match=message):
        certify(net, x, y, EPS)
    with pytest.raises(SoundnessError, match=f"first: number {broken[0]}, by ibp"):
        certify(net, x, y, EPS, batch_size=3)
    with torch.inference_mode(), pytest.raises(SoundnessError, match=message):
        certify(net, x, y, EPS)
    assert certify(net, x[lowest > 0], y[lowest > 0], EPS).certified.all()


def test_a_break_of_float32_alone_contradicts_no_proof():
    """logits = (relu(2^24 a + b) - relu(2^24 a), 0.5): float32 loses b = 1, and gets 0 for 1."""
    first, last = nn.Linear(2, 2, bias=False), nn.Linear(2, 2)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[2.0**24, 1.0], [2.0**24, 0.0]]))
        last.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        last.bias.copy_(torch.tensor([0.0, 0.5]))
    net = BoundedNet(nn.Sequential(first, nn.ReLU(), last).eval(), torch.zeros(2, 2))
    x, y = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.25]]), torch.zeros(3, dtype=torch.int64)
    with net.evaluating(), torch.no_grad():
        broken = net(x).argmax(1) != y
    assert broken.all()  # of the third, also in real numbers
    proved = torch.tensor([True, False, True])
    found = confirmed(net, Ball(0.0), x, y, torch.zeros(2), broken, proved, "real")
    assert found.tolist() == [False, True, True]
    # what lies outside the ball by rounding is brought back
    u = torch.tensor([0.0, -0.6])
    found = confirmed(net, Ball(0.25), x[:1], y[:1], u, broken[:1], proved[:1], "real")
    assert found.tolist() == [False]


class OfFloat32(nn.Flatten):
    """A layer that makes float32 of its inputs, so that the network has no twin in float64."""

    def forward(self, x):
        return super().forward(x).float()


def test_a_break_counts_where_float64_cannot_be_had():
    x, y = torch.rand(3, 4), torch.zeros(3, dtype=torch.int64)
    net = BoundedNet(nn.Sequential(OfFloat32(), nn.Linear(4, 2)).eval(), x)
    broken, proved = torch.tensor([True, False, True]), torch.tensor([True, True, False])
    assert confirmed(net, Ball(0.0), x, y, torch.zeros(4), broken, proved, "real") is broken


def test_right_proofs_stay_and_nothing_random_is_drawn(affine):
    net, x, y, lowest = affine
    state = torch.get_rng_state()
    found = certify(net, x, y, EPS)
    assert torch.equal(found.certified, lowest > 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_clipped_points_are_no_contradiction(affine):
    """Without pixels below zero, the margin of a black image can only grow by its weights."""
    net, x, _, _ = affine
    black = torch.zeros_like(x[:1])
    with torch.no_grad():
        net.module[1].weight[0].abs_()
        net.module[1].weight[1:] = -1
        net.module[1].bias.copy_(torch.tensor([0.01, 0.0, 0.0]))
    y = torch.zeros(1, dtype=torch.long)
    assert certify(net, black, y, EPS, clip=(0, 1)).certified.all()
    assert not certify(net, black, y, EPS).certified.any()


def test_what_another_verifier_proved_is_not_auto_lirpas(affine):
    net, x, y, lowest = affine
    known = torch.ones_like(y)
    assert certify(net, x, y, EPS, known=known).verdicts() == ["imported"] * 20


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 3)

    def forward(self, x):
        return self.layer(x.flatten(1).detach().tanh())


def test_models_without_gradients_keep_their_proofs():
    model, x = Detached().eval(), 0.5 * torch.rand(5, 1, 4, 4)
    assert certify(BoundedNet(model, x), x, model(x).argmax(1), 1e-5).certified.all()


def test_the_layer_to_blame_is_named(monkeypatch):
    """LeakyReLU of a negative slope, bounded wrongly by auto_LiRPA, as if that were not known."""
    names = [form.name for form in allowed.FORMS]
    monkeypatch.setattr(allowed, "_methods", lambda: dict.fromkeys(names, list(METHODS)))
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.LeakyReLU(-0.5), nn.Tanh(), nn.Linear(12, 3)
    ).eval()  # fmt: skip
    monkeypatch.setattr(selfcheck, "_check_containment", lambda *_: None)
    x = torch.rand(60, 1, 4, 4)
    with pytest.raises(SoundnessError, match=r"'LeakyReLU with another slope' \(layer '2'"):
        net = BoundedNet(model, x, bounds="auto-lirpa")
        certify(net, x, model(x).argmax(1), 0.5, method="ibp")
