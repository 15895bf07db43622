"""What certificates rest on: the weights, boxes, precision and rounding that they are of."""

import copy

import pytest
import torch
from networks import QUICK
from torch import nn

from citrus_lirpa import BoundedNet, Box, certify, certify_uap
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.data.types import Split
from citrus_lirpa.errors import InputError, ModelError
from citrus_lirpa.formats.onnx.layers import Branches
from citrus_lirpa.verify import fingerprint, fingerprint_of_images
from citrus_lirpa.verify.budget import Budget
from citrus_lirpa.verify.crown.linear import Group, Lines, refuting
from citrus_lirpa.verify.milp import most_broken


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


@pytest.fixture
def images(model):
    x = torch.rand(6, 1, 4, 4)
    return x, model(x).argmax(1)


# -- the weights ----------------------------------------------------------------------


def replaced_weights(model) -> None:
    other = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(other, assign=True)


def replaced_layer(model) -> None:
    model[3] = nn.Linear(12, 3)


def replaced_statistics(model) -> None:
    model[2].running_mean = model[2].running_mean.clone()


@pytest.mark.parametrize("replace", [replaced_weights, replaced_layer])
def test_weights_replaced_after_wrapping_are_refused(model, images, replace):
    x, y = images
    net = BoundedNet(model, x[:1])
    replace(model)
    for use in (
        lambda: certify(net, x, y, 0.01),
        lambda: certify_uap(net, x, y, 0.01),
        lambda: net.margins(Box.around(x, 0.01), y),
        lambda: net.preactivation_bounds(Box.around(x, 0.01)),
    ):
        with pytest.raises(ModelError, match="replaced since.*wrap the model again"):
            use()
    assert len(certify(BoundedNet(model, x[:1]), x, y, 0.01).correct) == 6


def test_a_plain_attribute_replaced_after_wrapping_is_refused():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.shift = nn.Linear(16, 3), torch.tensor([5.0, -5.0, -5.0])

        def forward(self, x):
            return self.layer(x.flatten(1)) + self.shift

    model, x = Shifted().eval(), torch.rand(6, 1, 4, 4)
    net = BoundedNet(model, x[:1])
    model.shift = torch.zeros(3)
    with pytest.raises(ModelError, match="has changed since it was wrapped"):
        certify(net, x, model(x).argmax(1), 0.01)


def test_statistics_replaced_after_wrapping_are_refused():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 3))
    x = torch.rand(4, 1, 4, 4)
    net = BoundedNet(model.eval(), x)
    replaced_statistics(model)
    with pytest.raises(ModelError, match="replaced since"):
        certify(net, x, model(x).argmax(1), 0.01)


def test_weights_changed_in_place_are_bounded_as_they_are_now(model, images):
    x, y = images
    net, box = BoundedNet(model, x[:1]), Box.around(x, 0.1)
    net.margins(box, y)
    with torch.no_grad():
        model[1].weight.mul_(5)
    others = torch.randn(sum(p.numel() for p in model.parameters()))
    for change in (lambda: None, lambda: nn.utils.vector_to_parameters(others, model.parameters())):
        change()
        (bounds,) = net.preactivation_bounds(box)
        inside = model[:2](x)
        assert bool(((bounds.lower <= inside) & (inside <= bounds.upper)).all())
        (interval,) = net.bound(box).preactivations
        assert torch.allclose(interval.centre, model[:2](box.centre), atol=1e-5)


# -- the boxes ------------------------------------------------------------------------


def test_certificates_of_another_box_are_refused(model, images):
    x, y = images
    certificates = certify(model_net := BoundedNet(model, x[:1]), x, y, 0.001, clip=(0, 1))
    for eps, clip in ((0.2, (0, 1)), (0.001, None), (0.001, (0, 2))):
        with pytest.raises(InputError, match=r"are of ε = 0.001 and clip \(0, 1\), not of"):
            certify_uap(model_net, x, y, eps, clip=clip, certificates=certificates)
    for same in ((0.0, 1.0), (torch.zeros(1, 1, 1), torch.ones(1, 1, 1))):
        assert certify_uap(model_net, x, y, 0.001, clip=same, certificates=certificates)


def test_a_range_for_each_image_is_refused(model, images):
    x, y = images
    net, low = BoundedNet(model, x[:1]), torch.zeros(6, 1, 1, 1)
    for use in (certify, certify_uap):
        with pytest.raises(InputError, match="clip is"):
            use(net, x, y, 0.1, clip=(low, low + 1))
    found = certify(net, x, y, 0.1, clip=(low[:1, 0], low[:1, 0] + 1))
    assert torch.equal(found.margin, certify(net, x, y, 0.1, clip=(0, 1)).margin)


# -- precision ------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [nn.Identity, nn.ReLU, nn.Tanh])
def test_autocast_around_a_certification_changes_nothing(activation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), activation(), nn.Linear(12, 3)).eval()
    x = torch.rand(6, 1, 4, 4)
    net, y = BoundedNet(model, x[:1]), model(x).argmax(1)

    def results():
        torch.manual_seed(1)  # of the attack
        found = certify(net, x, y, 0.02)
        groups = certify_uap(net, x, y, 0.02, certificates=found, attack=QUICK)
        return found.margin, found.decided_by, groups.lower, groups.upper, groups.u

    plain = results()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = results()
    assert all(map(torch.equal, cast, plain))


def linear(weight, bias) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


@pytest.mark.parametrize(
    ("large", "between", "at", "share"),
    [
        *((2.0**k, nn.ReLU(), -0.4, 0.4) for k in (14, 16, 18)),
        (2.0**20, nn.ReLU(), -0.4, 0.4),
        *((2.0**k, nn.Identity(), 0.51, 0.05) for k in (17, 18, 20)),
    ],
)
def test_values_that_cancel_within_the_network_prove_nothing(large, between, at, share):
    """Logit a(x + large) - a(large) - t, whose rounding is that of ``large``; the self-check never
    sees it, since a gate is open only where the second input is near 1. x is ``at`` ulps of
    ``large`` beside a multiple, ε a ``share`` of one, and the lowest logit -ε/2."""
    ulp = large * 2**-23
    eps = share * ulp
    point = (round(0.3 / ulp) + at) * ulp
    model = nn.Sequential(
        nn.Flatten(),
        linear([[0.0, -100.0], [1.0, 0.0]], [90.0, 0.0]),
        nn.ReLU(),
        linear([[-1.0, 0.0], [0.0, 1.0]], [1.0, 0.0]),
        nn.ReLU(),
        linear([[large, 1.0], [large, 0.0]], [0.0, 0.0]),
        between,
        linear([[1.0, -1.0], [0.0, 0.0]], [eps / 2 - point, 0.0]),
    ).eval()
    x = torch.tensor([[point, 1.0]]).repeat(5, 1)
    y = torch.zeros(5, dtype=torch.long)
    net = BoundedNet(model, torch.zeros(2, 2))
    exact = model.double()(x.double() - torch.tensor([eps, 0.0]).double())
    broken = exact.argmax(1) != y
    model.float()
    certificates = certify(net, x, y, eps, method="bab", time_limit=1)
    assert bool(broken.all()) and not bool(certificates.certified.any())
    assert (
        certify_uap(
            net, x, y, eps, certificates=certificates, time_limit=1, attack=QUICK
        ).lower.sum()
        == 0
    )


def cancelling(large: float, activation: type, eps: float) -> tuple[nn.Module, torch.Tensor]:
    """Logit large * (a(x) - a(0.4)) - t, and inputs (5, 1), of which that of x - ε is the largest
    below zero that its bias can make it."""
    model = nn.Sequential(
        nn.Flatten(),
        linear([[1.0], [0.0]], [0.0, 0.4]),
        activation(),
        linear([[large, -large], [0.0, 0.0]], [0.0, 0.0]),
    ).eval()
    x = torch.full((5, 1), 0.3)
    bias = model[-1].bias.detach()
    with torch.no_grad():
        bias[0] = -float(copy.deepcopy(model).double()(x.double() - eps)[0, 0])
        while float(copy.deepcopy(model).double()(x.double() - eps)[0, 0]) >= 0:
            bias[0] = torch.nextafter(bias[0], bias[0].new_tensor(-torch.inf))
    return model, x


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
def test_sums_that_cancel_within_a_layer_prove_nothing(activation):
    """Neither a value nor a logit is large here, but what a layer adds up is."""
    y, proved = torch.zeros(5, dtype=torch.long), 0
    for large in (3.1e4, 1.7e5, 2.3e5, 1.1e6, 2.9e6, 5.3e6):
        model, x = cancelling(large, activation, eps=1e-4)
        net = BoundedNet(model, x[:2])
        for method in ("ibp", "crown"):
            assert not certify(net, x, y, 1e-4, method=method).certified.any()
            proved += int(certify(net, x, y, 5e-5, method=method).certified.sum())
    assert proved > 0


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
def test_deep_networks_are_certified_on_the_bounds_that_prove_them(activation):
    """IBP's bounds explode and CROWN's do not: the threshold goes with the latter, or float64
    decides."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 64) for _ in range(14)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight)
    deep = [part for layer in layers for part in (layer, activation())]
    model = nn.Sequential(nn.Flatten(), *deep, nn.Linear(64, 3)).eval()
    x = torch.rand(20, 64)
    net, y, eps = BoundedNet(model, x[:2]), model(x).argmax(1), 1e-5
    certificates = certify(net, x, y, eps, method="crown")
    clear = certificates.margin > 2e-3
    assert int(clear.sum()) > 5 and bool(certificates.certified[clear].all())


def test_sizes_are_of_every_sum():
    """``largest_terms`` and what auto_LiRPA's bounds give, against sampled sums by hand."""
    torch.manual_seed(0)
    first, norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
    norm.running_mean.uniform_(-1, 1)
    last = nn.Linear(12, 3)
    model = nn.Sequential(first, norm, nn.ReLU(), nn.Flatten(), last).eval()
    x = torch.rand(4, 1, 4, 4)
    net, box = BoundedNet(model, x[:1]), Box.around(x, 0.1)
    with torch.no_grad():
        terms = net.largest_terms(box, net.preactivation_bounds(box))
        inside = torch.lerp(box.lower, box.upper, torch.rand_like(x))
        hidden = model[:4](inside)
        sums = hidden @ last.weight.abs().T + last.bias.abs()
    assert terms.shape == (4,) and bool((terms >= sums.amax(1)).all())
    with torch.no_grad():
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).view(-1, 1, 1, 1)
        shift = norm.bias - norm.running_mean * scale.flatten() + first.bias * scale.flatten()
        folded = nn.functional.conv2d(inside, (first.weight * scale).abs(), shift.abs())
    assert bool((terms >= folded.flatten(1).amax(1)).all())


@pytest.mark.parametrize("value", [torch.tensor(2.0), torch.full((8,), 2.0)])
def test_buffers_are_no_bounds(value):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(16, 8), nn.Linear(8, 3)
            self.register_buffer("scale", value)

        def forward(self, x):
            hidden = torch.sigmoid(self.first(x.flatten(1))) * self.scale
            return self.last(hidden + hidden.sum(1).unsqueeze(1))

    torch.manual_seed(0)
    model = Scaled().eval()
    x = torch.rand(8, 1, 4, 4)  # as many as the buffer has values
    assert certify(BoundedNet(model, x[:1]), x, model(x).argmax(1), 1e-4).certified.all()


def test_lines_within_their_rounding_prove_nothing_in_a_program_either():
    n = 9
    lines = Lines(
        image=torch.arange(n),
        row=torch.zeros(n, dtype=torch.long),
        g=torch.zeros(n, 2, dtype=torch.float64),
        c=torch.full((n,), 2e-4, dtype=torch.float64),
        x=torch.zeros(n, 2, dtype=torch.float64),
        ball=Ball(0.1),
        threshold=torch.full((n,), 1e-3, dtype=torch.float64),
        slopes=torch.zeros(n, 0),
    )
    group = Group({i: [0] for i in range(n)}, lines, Budget())
    assert not any(refuting(lines, [i]).weights is not None for i in range(n))
    assert most_broken(group, time_limit=5) == n
    lines.threshold[:4] = 1e-6
    assert [refuting(lines, [i]).weights is not None for i in range(n)] == [True] * 4 + [False] * 5
    assert most_broken(group, time_limit=5) == n - 4


# -- fingerprints ---------------------------------------------------------------------


def test_fingerprints_tell_layers_and_not_only_weights():
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(1, 1, 2, dilation=d) for d in (1, 2)]
    convolutions[1].load_state_dict(convolutions[0].state_dict())
    assert fingerprint(convolutions[0]) != fingerprint(convolutions[1])
    layers = [nn.ReLU(), nn.Tanh(), nn.Sigmoid()]
    chain, branch = Branches(layers, [(0,), (1,), (2,)]), Branches(layers, [(0,), (1,), (1,)])
    assert fingerprint(chain) != fingerprint(branch)
    assert fingerprint(chain) == fingerprint(Branches(layers, [(0,), (1,), (2,)]))


def test_fingerprints_of_images_tell_pixels_and_labels():
    images, labels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3)
    split = Split(images, labels)
    first = fingerprint_of_images(split)
    assert fingerprint_of_images(Split(images.clone(), labels.clone())) == first
    assert fingerprint_of_images(Split(images, labels + 1)) != first
    images[2, 0, 0, 0] = 1
    assert fingerprint_of_images(split) != first
