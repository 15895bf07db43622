"""CROWN's bounds on windows against dense CROWN, samples and attacks."""

import math

import pytest
import torch
from exact import Residual
from torch import nn

from citrus_lirpa import BoundedNet
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.bounds.segments import INPUT
from citrus_lirpa.models import Normalise
from citrus_lirpa.verify.crown.dual import DualBound
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.crown.intermediate import rounded, tighten
from citrus_lirpa.verify.crown.relaxation import Relaxation
from citrus_lirpa.verify.crown.rounding import Sizes, largest_input

SHAPE = (2, 9, 8)


def bent(channels):
    layer = nn.BatchNorm2d(channels)
    nn.init.uniform_(layer.weight, -1.5, 1.5)
    nn.init.uniform_(layer.bias, -0.3, 0.3)
    layer.running_mean.uniform_(-0.3, 0.3)
    return layer


#: What comes before the linear layers of networks of 2x9x8 images.
BODIES = {
    "strides": lambda: [
        Normalise([0.4, 0.5], [0.3, 0.2]), nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(),
        nn.Conv2d(3, 3, (3, 2), stride=(2, 1), padding=(1, 0)), nn.ReLU(),
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
    ],
    "batchnorm": lambda: [
        nn.Conv2d(2, 4, 3, groups=2), bent(4), nn.ReLU(), nn.Conv2d(4, 3, 3, 1, 2, 2), bent(3),
        nn.ReLU(), nn.Conv2d(3, 3, 2), bent(3),
    ],
    "residual": lambda: [
        nn.Conv2d(2, 3, 3, 2, 1), nn.ReLU(),
        Residual(nn.Conv2d(3, 3, 3, 1, 1), bent(3), nn.ReLU(), nn.Conv2d(3, 3, 3, 1, 1)), nn.ReLU(),
        Residual(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 3, 1, 1)),
    ],
    "average": lambda: [
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AvgPool2d(2, 1), nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(),
        nn.AvgPool2d(2, padding=1), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
    ],
    "maxima": lambda: [
        nn.Conv2d(2, 3, 3), nn.LeakyReLU(0.1), nn.MaxPool2d(2), nn.Conv2d(3, 3, 2, padding=1),
        nn.ReLU(), nn.MaxPool2d(2, 1),
    ],
    "curves": lambda: [
        nn.Conv2d(2, 3, 3, stride=2), nn.Tanh(), nn.Conv2d(3, 3, 2), nn.GELU(), nn.AvgPool2d(2),
    ],
}  # fmt: skip
#: Networks, and norm and clip of perturbations.
CASES = [
    *((name, math.inf, None) for name in BODIES),
    *((name, 2.0, (0.0, 1.0)) for name in ("strides", "average", "curves")),
    ("residual", math.inf, (0.0, 1.0)),
    ("residual", 2.0, None),
]


def prepare(name, norm, clip):
    """An engine, and images with IBP's bounds."""
    torch.manual_seed(7)
    body = BODIES[name]()
    size = nn.Sequential(*body, nn.Flatten()).eval()(torch.rand(1, *SHAPE)).shape[1]
    ends = nn.ReLU(), nn.Flatten(), nn.Linear(size, 5), nn.ReLU(), nn.Linear(5, 3)
    model, x = nn.Sequential(*body, *ends).eval(), torch.rand(2, *SHAPE)
    eps = 0.06 if norm == math.inf else 0.5
    engine = DualEngine(BoundedNet(model, x).eval(), Ball(eps, clip, norm))
    return engine, engine.ibp(x, model(x).argmax(1))[0]


def dense(engine, x, known, k, wanted, exact):
    """Bounds by coefficients on whole maps, of neurons ``wanted`` (n, neurons) of layer k."""
    sizes = Sizes.all(engine.segments, x, engine.ball, known)[: k + 1]
    i, j = wanted.nonzero(as_tuple=True)
    relaxation = Relaxation.of(known[:k], sizes, engine.curves).rows(i)
    ends = []
    for sign in (1.0, -1.0):
        c = sign * torch.eye(wanted.shape[1])[j]
        dual = DualBound(engine.segments[: k + 1], relaxation, x[i], c, engine.ball)
        if exact:
            segments = engine.exact_segments[: k + 1]
            dual = dual.rows(torch.arange(len(i)), segments, torch.float64)
        ends.append(sign * dual(dual.start(), dual.x.new_ones(len(i), 1)).value)
    return ends


@torch.no_grad()
@pytest.mark.parametrize("name, norm, clip", CASES)
def test_bounds_on_windows_are_those_of_dense_crown(name, norm, clip):
    engine, images = prepare(name, norm, clip)
    compared = 0
    for exact in (False, True):
        begin = rounded(images.bounds, torch.float64) if exact else images.bounds
        segments = engine.exact_segments if exact else None
        found = tighten(engine.segments, images.x, engine.ball, begin, exact=segments).bounds
        known = rounded(found, torch.float32)
        for k, ((lower, upper), (low, high)) in enumerate(zip(found, begin, strict=True)):
            wanted = (low < 0) & (high > 0) if engine.curves[k] is None else low < high
            if k == 0 or not wanted.any():
                continue
            below, above = dense(engine, images.x, known, k, wanted.flatten(1), exact)
            tolerance = 1e-9 if exact else 1e-4
            scale = tolerance * (1 + (high - low)[wanted])
            compared += int(wanted.sum())
            certain = torch.zeros_like(wanted)
            if engine.curves[k] is None:
                certain = (lower >= 0) | (upper <= 0)
                assert bool(certain[wanted][(below > scale) | (above < -scale)].all())
            for end, other, mine in ((lower, upper, below), (-upper, -lower, -above)):
                given = low if end is lower else -high
                best = torch.maximum(mine, given[wanted])
                same = (end[wanted] - best).abs() < scale
                assert bool((same | certain[wanted] & (other <= 0)[wanted]).all())
    assert compared > 60


@torch.no_grad()
@pytest.mark.parametrize("name, norm, clip", CASES)
def test_bounds_on_windows_contain_what_perturbed_images_reach(name, norm, clip):
    engine, images = prepare(name, norm, clip)
    tight, ball = engine.tightened(images), engine.ball
    u = torch.randn(300, *SHAPE, dtype=torch.float64)
    u[::2] = ball.direction(u[::2])
    moved = ball.cut(images.x.double().unsqueeze(1) + ball.project(ball.eps * u)).flatten(0, 1)
    values = {INPUT: moved}
    for k, (lower, upper) in enumerate(tight.bounds):
        segment = engine.exact_segments[k]
        z = segment(*(values[source] for source in segment.sources))
        each = z.unflatten(0, (len(images), -1))
        assert bool((lower <= each.amin(1)).all()) and bool((each.amax(1) <= upper).all())
        values[k] = z.relu() if segment.curve is None else segment.curve.function(z)


@torch.no_grad()
def test_certain_relus_get_no_bounds_that_explode():
    """What rounding is charged depends on both bounds, IBP's of which grow from layer to layer."""
    torch.manual_seed(0)
    layers = [nn.Linear(24, 24) for _ in range(14)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight)
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
    net, x = (
        BoundedNet(nn.Sequential(model, nn.Linear(24, 3)), torch.rand(2, 24)),
        torch.rand(4, 24),
    )
    engine = DualEngine(net.eval(), Ball(1e-3))
    images = engine.ibp(x, torch.zeros(4, dtype=torch.long))[0]
    given = engine.segments, x, engine.ball, images.bounds
    pairs = zip(tighten(*given).bounds, tighten(*given, both=True).bounds, strict=True)
    for one, two in pairs:
        assert bool((one[1].amax(1) <= 1.5 * two[1].amax(1)).all())
    assert bool((images.bounds[-1][1].amax(1) > 100 * two[1].amax(1)).all())


@torch.no_grad()
@pytest.mark.parametrize("name", ["strides", "residual"])
def test_a_little_room_gives_the_same_bounds(name, monkeypatch):
    """With few rows at once, places and channels are worked on in parts."""
    engine, images = prepare(name, math.inf, None)
    given = engine.segments, images.x, engine.ball, images.bounds
    found = tighten(*given, both=True)
    monkeypatch.setattr("citrus_lirpa.verify.crown.windowed.free_memory", lambda _: 1 << 16)
    in_parts = tighten(*given, both=True)
    pairs = zip(found.bounds, in_parts.bounds, strict=True)
    for one, other in pairs:
        for mine, its in zip(one, other, strict=True):
            torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["maxima", "residual"])
def test_sizes_of_segments_that_overlap_are_those_of_each_alone(name):
    engine, images = prepare(name, math.inf, None)
    x, ball, largest = images.x, engine.ball, {}
    largest[INPUT] = largest_input(x, ball)
    largest |= {k: upper.clamp(min=0) for k, (_, upper) in enumerate(images.bounds)}
    found = Sizes.all(engine.segments, x, ball, images.bounds)
    for segment, sizes in zip(engine.segments, found, strict=True):
        alone = segment.sizes(*(largest[source] for source in segment.sources))
        alone = alone.flatten(2).amax(2) if alone.ndim > 2 else alone
        torch.testing.assert_close(sizes, 1.01 * alone)
