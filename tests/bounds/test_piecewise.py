"""Piecewise linear layers as affine maps and ReLU: values, intervals, bounds."""

import warnings

import pytest
import torch
from exact import BENT_KINDS, Larger, random_images, random_net
from layers import AFFINE, LAYERS, Function, network
from torch import nn

from citrus_lirpa import BoundedNet, Box, Ibp, certify
from citrus_lirpa.bounds import lirpa
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.bounds.margins import logit_margins
from citrus_lirpa.bounds.segments import INPUT
from citrus_lirpa.errors import ModelError
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.crown.rounding import intervals


def values(segments, x):
    """The input of every ReLU, and the logits."""
    known, found = {INPUT: x}, []
    for k, segment in enumerate(segments):
        found.append(segment(*(known[s] for s in segment.sources)))
        assert found[-1].shape[1:] == segment.shape
        known[k] = found[-1].relu()
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_segments_compute_the_layer(name):
    layer, relus = LAYERS[name]
    model, x, _ = network(layer)
    segments = BoundedNet(model, x).eval().affine_segments()
    assert len(segments) == relus + 1
    torch.testing.assert_close(values(segments, x)[-1], model(x))
    double = [segment.double() for segment in segments]
    torch.testing.assert_close(
        values(double, x.double())[-1], model.double()(x.double()), atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("name", AFFINE)
def test_segments_compute_affine_layers(name):
    model, x, _ = network(nn.ReLU(), AFFINE[name], nn.ReLU())
    segments = BoundedNet(model, x).eval().affine_segments()
    assert len(segments) == 3
    torch.testing.assert_close(values(segments, x)[-1], model(x))


def widest(function, low, high):
    """The interval of a function of one value, which has its kinks at 0 or multiples of 0.1."""
    points = [low, high, *(torch.full_like(low, k / 10).clamp(low, high) for k in range(-70, 71))]
    found = torch.stack([function(p) for p in points])
    return found.amin(0), found.amax(0)


@pytest.mark.parametrize("eps", [0.01, 0.2])
@pytest.mark.parametrize("name", LAYERS)
def test_intervals_are_those_of_the_layer(name, eps):
    """Margins by IBP, against intervals of the layers written out."""
    model, x, y = network(LAYERS[name][0])
    engine = DualEngine(BoundedNet(model, x).eval(), Ball(eps))
    _, margins, _ = engine.ibp(x, y)
    conv, layer, _, last = model.double()
    with torch.no_grad():
        centre = conv(x.double())
        radius = nn.functional.conv2d(
            torch.full_like(x.double(), eps), conv.weight.abs(), padding=1
        )
        low, high = centre - radius, centre + radius
        if isinstance(layer, Larger):
            other = layer.second
            middle, wide = other(centre), nn.functional.conv2d(radius, other.weight.abs())
            low, high = layer.function(low, middle - wide), layer.function(high, middle + wide)
        elif "pool" in name or "constant" in name or name == "one window":
            low, high = layer(low), layer(high)  # which grow with their input
        else:
            low, high = widest(layer, low, high)
        middle, wide = ((low + high) / 2).flatten(1), ((high - low) / 2).flatten(1)
        logits, spread = last(middle), (last.weight[y].unsqueeze(1) - last.weight).abs()
        wanted = logits.gather(1, y[:, None]) - logits - (spread @ wide.unsqueeze(2)).squeeze(2)
        rows = torch.ones_like(wanted, dtype=torch.bool).scatter(1, y[:, None], False)
    torch.testing.assert_close(margins, wanted[rows].view(4, 2).float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("eps", [0.02, 0.2])
@pytest.mark.parametrize("name", [*LAYERS, *AFFINE])
def test_samples_stay_above_all_bounds(name, eps):
    layers = [LAYERS[name][0]] if name in LAYERS else [nn.ReLU(), AFFINE[name], nn.ReLU()]
    model, x, y = network(*layers)
    engine = DualEngine(BoundedNet(model, x).eval(), Ball(eps))
    images, ibp, _ = engine.ibp(x, y)
    tight, rows = engine.tightened(images), torch.ones_like(ibp, dtype=torch.bool)
    bounds = [ibp, *(engine.margins(i, rows, n)[0] for i in (images, tight) for n in (0, 8))]
    u = eps * (2 * torch.rand(600, 1, 1, 6, 6) - 1)
    u[::2] = eps * u[::2].sign()
    with torch.no_grad():
        moved = (x + u).flatten(0, 1)
        sampled = logit_margins(model(moved), y.repeat(600)).view(600, 4, 2).amin(0)
        inputs = values(engine.segments, moved)[:-1]
    for bound in bounds:
        assert bool((bound <= sampled + 1e-5).all())
    for (low, high), z in zip(tight.bounds, inputs, strict=True):
        z = z.view(600, 4, *z.shape[1:])
        assert bool((z.amin(0) >= low - 1e-5).all() and (z.amax(0) <= high + 1e-5).all())
    assert bool((bounds[-1] >= bounds[3] - 1e-4).all())  # alpha-CROWN begins with CROWN


def test_crown_tightens_differences_before_the_first_relu():
    """Windows of one convolution differ by less than their intervals say."""
    model, x, y = network(nn.MaxPool2d(2))
    engine = DualEngine(BoundedNet(model, x).eval(), Ball(0.1))
    images, _, _ = engine.ibp(x, y)
    (low, high), (tight_low, tight_high) = images.bounds[0], engine.tightened(images).bounds[0]
    assert float((tight_high - tight_low).mean()) < 0.9 * float((high - low).mean())


@pytest.mark.parametrize("kind", BENT_KINDS)
def test_all_stages_take_them(kind):
    model, shape = random_net(kind, 1)
    x, y = random_images(model, shape, 1, 6)
    found = certify(BoundedNet(model, x).eval(), x, y, 0.1, method="bab", time_limit=1)
    assert not found.unsupported


def test_intervals_start_from_boxes_of_double_precision():
    model, x, _ = network(LAYERS["pool 2"][0])
    segments = [s.double() for s in BoundedNet(model, x).eval().affine_segments()]
    bounds, boxes = intervals(segments, x.double(), Ball(0.1))
    assert len(bounds) == 2 and len(boxes) == 4  # the input, two ReLUs, a maximum
    assert all(end.dtype == torch.float64 for box in boxes.values() for end in box)


def test_a_factor_that_is_computed_is_refused():
    model, x, _ = network(Function(lambda x: torch.prelu(x, x.mean((0, 2, 3)))))
    with pytest.raises(ModelError):
        DualEngine(BoundedNet(model, x).eval(), Ball(0.1))


@pytest.mark.parametrize("name", ["relu6", "clamp below", "prelu", "max", "min", "dilated pool"])
def test_what_auto_lirpa_does_not_know_is_trained_by_intervals(name):
    if name == "clamp below" and not lirpa.load().legacy:
        pytest.skip("0.7 knows clamps with two limits")
    model, x, y = network(LAYERS[name][0])
    net = BoundedNet(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Ibp()(net.train(), x, y, 0.1).backward()
    assert float(model[0].weight.grad.abs().sum()) > 0
    low = net.eval().margins(Box.around(x, 0.1, None), y)
    _, ours, _ = DualEngine(net, Ball(0.1)).ibp(x, y)
    torch.testing.assert_close(low.detach(), ours, atol=1e-5, rtol=1e-5)


class WithOne(nn.Module):
    """A network that puts a one behind its hidden neurons, for every image of a batch."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 4), nn.Linear(5, 3)

    def forward(self, x):
        hidden = self.first(x.flatten(1)).relu()
        return self.last(torch.cat([hidden, torch.ones_like(hidden[:, :1])], 1))


def test_constants_are_joined_to_every_image_of_a_batch():
    """auto_LiRPA 0.3 traces the ones of one image, and is refused."""
    torch.manual_seed(0)
    model, x = WithOne().eval(), torch.rand(6, 1, 4, 4)
    if lirpa.load().legacy:
        with pytest.raises(ModelError, match="a batch of 3"):
            BoundedNet(model, x[:2])
        return
    plain = nn.Sequential(nn.Flatten(), model.first, nn.ReLU(), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        plain[3].weight.copy_(model.last.weight[:, :4])
        plain[3].bias.copy_(model.last.bias + model.last.weight[:, 4])
    y = model(x).argmax(1)
    found = [certify(BoundedNet(m, x[:2]), x, y, 0.1, method="crown") for m in (model, plain)]
    torch.testing.assert_close(found[0].margin, found[1].margin, atol=1e-5, rtol=0)
