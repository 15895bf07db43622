"""What wrapping and certifying find out about a model: its trace, and what a batch does to it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from citrus_lirpa import BoundedNet, Box, Ibp, certify
from citrus_lirpa.bounds import METHODS, allowed, lirpa
from citrus_lirpa.errors import ModelError

BATCH = "depend on the other images of its batch"
CHANGED = "has changed since it was wrapped"


class Meddling(nn.Module):
    """A classifier of 1x4x4 images, of whose input or logits a function makes something."""

    def __init__(self, before=lambda model, x: x, after=lambda model, x, logits: logits):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        self.before, self.after = before, after

    def forward(self, x):
        return self.after(self, x, self.layers(self.before(self, x)))


def own_module(model, x) -> nn.Module:
    with lirpa.parsing():
        bounded = lirpa.load().BoundedModule(model, x[:1])
    bounded.eval()
    return bounded


COMPARED = {
    "mean": lambda model, x: x - x.mean(0, keepdim=True),
    "first": lambda model, x: x - 0.001 * x[:1],
}


@pytest.mark.parametrize("kind", COMPARED)
def test_logits_that_depend_on_the_rest_of_the_batch_are_refused(kind):
    model, x = Meddling(COMPARED[kind]).eval(), torch.rand(6, 1, 4, 4)
    alone = torch.cat([model(image[None]) for image in x])
    assert float((model(x) - alone).detach().abs().max()) > 1e-4  # the two truths
    with pytest.raises(ModelError, match=BATCH):
        BoundedNet(model, x)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (lambda model, x: x.mul_(2), "changes its input in place"),
        (lambda model, x: F.dropout(x), "change from call to call"),
        (lambda model, x: x + model.calls.add_(1), "change from call to call"),
    ],
)
def test_what_is_no_function_of_its_input_is_refused_for_that(before, words):
    model = Meddling(before).eval()
    model.register_buffer("calls", torch.zeros(()))
    with pytest.raises(ModelError, match=words):
        BoundedNet(model, torch.rand(6, 1, 4, 4))


def test_they_are_also_found_among_the_inputs_to_be_certified():
    """Only an image brighter than any example is felt by the others."""
    model = Meddling(lambda model, x: x - (x - 2).relu().mean(0, keepdim=True)).eval()
    x = torch.rand(7, 1, 4, 4)
    net, y = BoundedNet(model, x), model(x).argmax(1)
    assert len(certify(net, x, y, 1e-3).correct) == 7
    x[6] += 5
    with pytest.raises(ModelError, match=BATCH):
        certify(net, x, y, 1e-3, clip=(0.0, 6.0))


def test_every_input_is_compared_with_the_traced_graph():
    """The model changes for bright images alone, and only the last one is bright."""
    model = Meddling(after=lambda model, x, out: out + model.gain * (x - 2).relu().sum((2, 3)))
    model.gain = torch.zeros(1)
    x = torch.rand(7, 1, 4, 4)
    x[6] += 5
    net, y = BoundedNet(model.eval(), x), model(x).argmax(1)
    model.gain = torch.ones(1)
    assert len(certify(net, x[:6], y[:6], 1e-3).correct) == 6
    with pytest.raises(ModelError, match=CHANGED):
        certify(net, x, y, 1e-3, clip=(0.0, 6.0))


@pytest.mark.parametrize(("change", "refused"), [(1e-3, True), (3e-5, False)])
def test_a_change_since_wrapping_is_seen_from_the_rounding_threshold_on(change, refused):
    """At logits around 20 that is 2e-4: a bound that small proves nothing, one above may."""
    model, x = (
        Meddling(after=lambda model, x, out: out + model.shift).eval(),
        torch.rand(5, 1, 4, 4),
    )
    model.shift = torch.tensor([20.0, 0.0, 0.0])
    net, y = BoundedNet(model, x), torch.zeros(5, dtype=torch.long)
    model.shift = model.shift - torch.tensor([change, 0.0, 0.0])
    if not refused:
        assert certify(net, x, y, 1e-3).certified.all()
        return
    with pytest.raises(ModelError, match=CHANGED):
        certify(net, x, y, 1e-3)


# -- a user's own BoundedModule -------------------------------------------------------


def wrongly_bounded(monkeypatch) -> nn.Module:
    """A model of a layer whose bounds auto_LiRPA gets wrong, as if that were not known."""
    monkeypatch.setattr(allowed, "_methods", lambda: dict.fromkeys(NAMES, list(METHODS)))
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.LeakyReLU(-0.5), nn.Linear(8, 3)
    ).eval()  # fmt: skip


NAMES = [form.name for form in allowed.FORMS]


def test_an_own_bounded_module_is_checked_before_anything_is_certified(monkeypatch):
    x, y = torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.long)
    model = wrongly_bounded(monkeypatch)
    words = "bounds do not contain this .*because of 'LeakyReLU with another slope' .*replace"
    for wrap in (lambda: BoundedNet(model, x), lambda: certify(own_module(model, x), x, y, 1e-3)):
        with pytest.raises(ModelError, match=words):
            wrap()
    with pytest.raises(ModelError, match=BATCH):
        certify(own_module(Meddling(COMPARED["mean"]).eval(), x), x, y, 1e-3)


def test_bounds_that_count_for_nothing_are_not_checked():
    """CROWN-IBP of a padded mean is wrong on 0.3, and is on no list there: IBP certifies alone."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Tanh(), nn.AvgPool2d(3, 2, 1), nn.Flatten(), nn.Linear(2, 3)
    ).eval()
    with torch.no_grad():
        model[-1].weight.mul_(20)
        model[-1].bias.zero_()
    x = torch.rand(4, 1, 4, 4)
    net, y = BoundedNet(model, x, bounds="auto-lirpa"), model(x).argmax(1)
    assert certify(net, x, y, 1e-4, method="crown-ibp").certified.any()
    refused = certify(net, x, y, 0.9, method="crown-ibp").unsupported
    assert ("AvgPool2d" in refused.get("crown-ibp", "")) == lirpa.load().legacy


def test_bounds_that_overflow_are_wrapped_with_a_warning_and_prove_nothing():
    layers = [nn.Linear(16, 16, bias=False) for _ in range(100)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight)  # which keeps points, and widens boxes threefold
    model = nn.Sequential(nn.Flatten(), *layers, nn.Linear(16, 3)).eval()
    x = torch.rand(4, 1, 4, 4)
    with pytest.warns(UserWarning, match="overflow.*shi_initialise"):
        net = BoundedNet(model, x)
    y = model(x).argmax(1)
    assert not certify(net, x, y, 0.2, method="ibp").certified.any()
    with pytest.warns(UserWarning, match="the loss is nan, and its gradients are useless"):
        Ibp(clip=None)(net.train(), x, y, 0.2)


def test_a_sound_one_is_certified_as_a_model_is():
    torch.manual_seed(0)
    model, x = Meddling().eval(), torch.rand(6, 1, 4, 4)
    y, net = model(x).argmax(1), own_module(model, x)
    found, expected = (certify(n, x, y, 0.01) for n in (net, BoundedNet(model, x)))
    assert torch.equal(found.decided_by, expected.decided_by)
    assert torch.equal(found.margin, expected.margin)
    assert BoundedNet(net).margins(Box.around(x, 0.01), y).shape == (6, 2)
