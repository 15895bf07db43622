"""The dual engine: affine segments, dual bounds, their gradient and ascent, tightened bounds."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from exact import KINDS, random_images, random_net
from fuzzing import random_test, sizes
from hypothesis import strategies as st
from torch import nn

from citrus_lirpa import BoundedNet, Box, certify, certify_uap
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.bounds.margins import specification
from citrus_lirpa.bounds.segments import INPUT
from citrus_lirpa.errors import ModelError
from citrus_lirpa.verify.crown.ascent import ascend_dual
from citrus_lirpa.verify.crown.dual import DualBound, worst_shared
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.crown.intermediate import rounded, tighten
from citrus_lirpa.verify.crown.relaxation import Images, Relaxation
from citrus_lirpa.verify.crown.rounding import Sizes

CLIPS = [None, (0.0, 1.0)]

nets = dict(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10_000),
    eps=st.sampled_from((0.05, 0.2, 0.5)),
    clip=st.sampled_from(CLIPS),
)


def prepare(kind, seed, eps, clip, count=4, crown=True):
    """An engine, images with bounds of their ReLU inputs, and the network in float64."""
    torch.manual_seed(seed)
    model, shape = random_net(kind, seed)
    x, y = random_images(model, shape, seed, count)
    engine = DualEngine(BoundedNet(model, x).eval(), Ball(eps, clip))
    images, *_ = engine.ibp(x, y)
    return engine, engine.tightened(images) if crown else images, random_net(kind, seed)[0].double()


def perturbed(images, eps, clip, samples):
    """(samples, ...) perturbations, corners among them, and (n, samples, ...) what they make."""
    u = eps * (2 * torch.rand(samples, *images.x.shape[1:], dtype=torch.float64) - 1)
    u[::3] = eps * u[::3].sign()
    moved = images.x.double().unsqueeze(1) + u
    return u, moved if clip is None else moved.clamp(*clip)


@torch.no_grad()
def relu_inputs(model, x):
    """The inputs of every ReLU, (N, neurons) each, and the logits, through hooks."""
    seen = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1)))
        for layer in model.modules()
        if isinstance(layer, nn.ReLU)
    ]
    logits = model(x)
    for hook in hooks:
        hook.remove()
    return seen, logits


def unstable_inputs(images, seen):
    """(n, samples, M) the inputs of the neurons that a relaxation keeps."""
    n, index = len(images), images.relaxation.index
    layers = [z.view(n, -1, z.shape[1]) for z in seen]
    parts = [
        z.gather(2, places.unsqueeze(1).expand(-1, z.shape[1], -1))
        for z, places in zip(layers, index, strict=True)
    ]
    return torch.cat(parts, 2)


# ------------------------------------------------------------------------------- segments


@pytest.mark.parametrize("kind", KINDS)
def test_segments_compute_what_the_network_computes(kind):
    model, shape = random_net(kind, 3)
    x = torch.rand(5, *shape)
    net = BoundedNet(model, x).eval()
    segments = net.affine_segments()
    seen, logits = relu_inputs(model, x)
    assert [torch.Size(segment.shape).numel() for segment in segments[:-1]] == [
        z.shape[1] for z in seen
    ]
    values = {INPUT: x}
    for k, (segment, z) in enumerate(zip(segments, [*seen, logits], strict=True)):
        out = segment(*(values[s] for s in segment.sources))
        assert out.shape[1:] == segment.shape
        assert torch.allclose(out.flatten(1), z, atol=1e-6)
        assert all(source < k for source in segment.sources)
        a, b = ([torch.randn_like(values[s]) for s in segment.sources] for _ in range(2))
        mixed = segment(*(0.3 * p + 0.7 * q for p, q in zip(a, b, strict=True)))
        assert torch.allclose(mixed, 0.3 * segment(*a) + 0.7 * segment(*b), atol=1e-5)
        values[k] = out.relu()


def test_segments_of_a_residual_net_name_both_branches():
    model, shape = random_net("residual", 0)
    net = BoundedNet(model, torch.rand(2, *shape)).eval()
    assert [segment.sources for segment in net.affine_segments()] == [(INPUT,), (0,), (0, 1), (2,)]


class Inverse(nn.Module):
    def forward(self, x):
        return torch.acos(x.tanh())


@pytest.mark.parametrize("layer", [nn.Softmax(dim=1), Inverse()])
def test_other_operations_are_refused(layer):
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), layer, nn.Linear(3, 2)).eval()
    with pytest.raises(ModelError):
        BoundedNet(model, torch.rand(1, 2)).eval().affine_segments()


# -------------------------------------------------------------------------- dual bounds


@random_test(20, 35, **nets, members=st.integers(1, 3), double=st.booleans())
def test_dual_bounds_stay_below_sampled_margins(kind, seed, eps, clip, members, double):
    """For any α, β, weights and splits, at the points where these hold for every member."""
    engine, images, exact = prepare(kind, seed, eps, clip, crown=bool(seed % 3))
    tuples = 6
    _, moved = perturbed(images, eps, clip, 400)
    seen, logits = relu_inputs(exact, moved.flatten(0, 1))
    c = images.c.double()
    margins = torch.einsum("nkc,nsc->nsk", c, logits.view(len(images), -1, logits.shape[1]))
    inputs = unstable_inputs(images, seen)

    chosen = torch.stack([torch.randperm(4)[:members] for _ in range(tuples)])
    rows = torch.randint(2, chosen.shape)
    r = images.relaxation.rows(chosen.flatten())
    # splits that hold at one of the points, of about a third of the neurons
    point = torch.randint(400, (tuples,)).repeat_interleave(members)
    signs = inputs[chosen.flatten(), point].sign() * (torch.rand_like(r.lower) < 0.3)
    signs = (signs * ((r.lower < 0) & (r.upper > 0))).to(torch.int8)
    split = signs != 0
    size = 10.0 ** torch.randint(-2, 2, (len(r.lower), 1))
    parameter = torch.where(split, size * torch.rand_like(r.lower), torch.rand_like(r.lower))
    weight = torch.rand(tuples, members).softmax(1)
    if seed % 4 == 0:
        weight = torch.eye(members)[torch.randint(members, (tuples,))]
    dual = engine.dual(images, chosen, rows, signs=signs)
    if double:
        every = torch.arange(tuples * members)
        dual = dual.rows(every, engine.exact_segments, torch.float64)
        parameter, weight = parameter.double(), weight.double()
    found = dual(parameter, weight)

    z = inputs[chosen.flatten()]
    holds = ((z * signs.unsqueeze(1)) >= 0).all(2).view(tuples, members, -1).all(1)
    of_rows = margins[chosen.flatten(), :, rows.flatten()].view(tuples, members, -1)
    combined = torch.einsum("ds,dsp->dp", weight.double(), of_rows)
    lowest = combined.masked_fill(~holds, torch.inf).amin(1)
    assert holds.any(1).all()
    slack = (2e-6 if double else 1e-4) * (1 + float(size.max()))
    assert (found.value <= lowest + slack).all()
    assert torch.allclose((found.line * weight).sum(1), found.value)
    assert (found.u.abs() <= eps * (1 + 1e-6)).all()


@random_test(20, 35, **nets)
def test_planes_lie_below_the_margins(kind, seed, eps, clip):
    engine, images, exact = prepare(kind, seed, eps, clip)
    image, row = torch.arange(4).repeat_interleave(2), torch.arange(2).repeat(4)
    dual = engine.dual(images, image.unsqueeze(1), row.unsqueeze(1))
    a, b = dual.planes(torch.rand_like(dual.start()))
    _, moved = perturbed(images, eps, clip, 300)
    margins = torch.einsum("lc,lpc->lp", images.c[image, row].double(), torch.stack(
        [exact(moved[i]).detach() for i in image.tolist()]))  # fmt: skip
    plane = torch.einsum("lv,lpv->lp", a.flatten(1).double(), moved[image].flatten(2))
    assert (plane + b.double().unsqueeze(1) <= margins + 1e-4).all()


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_finite_differences(kind, clip):
    compared = total = 0
    for seed in range(6):
        engine, images, _ = prepare(kind, seed, 0.3, clip)
        members = torch.tensor([[0, 1], [2, 3], [1, 3]])
        rows = torch.tensor([[0, 1], [1, 1], [0, 0]])
        r = images.relaxation.rows(members.flatten())
        signs = torch.randint(-2, 3, r.lower.shape).clamp(-1, 1) * (torch.rand(r.lower.shape) < 0.4)
        signs = (signs * ((r.lower < 0) & (r.upper > 0))).to(torch.int8)
        dual = engine.dual(images, members, rows, signs=signs)
        dual = dual.rows(torch.arange(6), engine.exact_segments, torch.float64)
        parameter = 0.1 + 0.8 * torch.rand(r.lower.shape, dtype=torch.float64)
        weight = torch.rand(3, 2, dtype=torch.float64).softmax(1)
        gradient = dual.gradient(dual(parameter, weight)) * weight.view(-1, 1)
        h = 1e-6
        for neuron in range(r.lower.shape[1]):
            for side in range(2):
                step = torch.zeros_like(parameter)
                step[side::2, neuron] = h
                middle = dual(parameter, weight).value
                up = (dual(parameter + step, weight).value - middle) / h
                down = (middle - dual(parameter - step, weight).value) / h
                smooth = (up - down).abs() < 1e-5
                expected = (up + down) / 2
                got = gradient[side::2, neuron]
                assert torch.allclose(got[smooth], expected[smooth], atol=1e-4), (neuron, side)
                compared += int(smooth.sum())
                total += len(smooth)
    assert compared >= 0.9 * total and total > 5


@sizes(1, 3)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_crown_and_the_ascent_reaches_alpha_crown(kind, clip, cases):
    for seed in range(cases):
        for eps in (0.05, 0.3):
            engine, images, _ = prepare(kind, seed, eps, clip, crown=False)
            box = Box.around(images.x, eps, clip)
            with torch.no_grad():
                found = engine.net.bound(box, images.y, "crown")
                crown, bounds = found.margins, found.preactivation_boxes
            alpha = engine.net.margins(box, images.y, "alpha-crown")
            sizes = Sizes.all(engine.segments, images.x, Ball(eps, clip), bounds)
            relaxation = Relaxation.of(bounds, sizes)
            image, row = torch.ones_like(crown).nonzero(as_tuple=True)
            dual = DualBound(
                engine.segments, relaxation.rows(image), images.x[image], images.c[image, row],
                Ball(eps, clip),
            )  # fmt: skip
            one = torch.ones(len(image), 1)
            assert torch.allclose(dual(dual.start(), one).value.view_as(crown), crown, atol=1e-4)
            reached = ascend_dual(dual, 100, rate=0.25).value.view_as(crown)
            undecided = crown <= 0  # auto_LiRPA optimises these alone
            assert (reached >= alpha - 1e-2)[undecided].all()
            assert (reached >= crown - 1e-4).all()


@pytest.mark.parametrize("clip", CLIPS)
def test_ascending_tuples_never_lowers_the_bound(clip):
    gained = 0.0
    for seed, kind in enumerate(KINDS):
        engine, images, _ = prepare(kind, seed, 0.3, clip)
        members, rows = torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.tensor([[0, 1, 0], [1, 1, 0]])
        dual = engine.dual(images, members, rows)
        values = [ascend_dual(dual, steps, rate=0.25).value for steps in (0, 5, 20)]
        assert (values[1] >= values[0]).all() and (values[2] >= values[1]).all()
        gained += float((values[2] - values[0]).sum())
    assert gained > 0.5


# ---------------------------------------------------------------- the worst perturbation


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("clip", CLIPS)
def test_the_worst_shared_perturbation_is_optimal_in_every_pixel(clip, per_channel):
    if per_channel and clip is None:
        pytest.skip("no range to give per channel")
    if per_channel:
        clip = [torch.tensor(ends).double().view(2, 1, 1) for ends in ([-0.1, 0.2], [0.8, 0.9])]
    eps, grid = 0.3, torch.linspace(-0.3, 0.3, 601, dtype=torch.float64)
    for members in (1, 2, 5):
        shape = (7, members, 2, 3, 3)
        a = torch.randn(shape, dtype=torch.float64) * (torch.rand(shape) < 0.9)
        x = 1.4 * torch.rand(shape, dtype=torch.float64) - 0.2
        weight = torch.rand(7, members, dtype=torch.float64).softmax(1)

        def value(u, a=a, x=x, weight=weight):
            moved = x + u.unsqueeze(1)
            moved = moved if clip is None else moved.clamp(*clip)
            return torch.einsum("ds...,ds->d...", a * moved, weight)

        u = worst_shared(a, weight, x, Ball(eps, clip))
        assert u.shape == (7, 2, 3, 3) and (u.abs() <= eps).all()
        least = torch.stack([value(torch.full_like(u, float(g))) for g in grid]).amin(0)
        assert (value(u) <= least + 1e-12).all()


@pytest.mark.parametrize("clip", CLIPS)
def test_slopes_that_overflow_have_no_worst_perturbation(clip):
    a = torch.tensor([[[torch.inf, 1.0]], [[torch.nan, 1.0]], [[2.0, 1.0]]])
    x, weight = torch.full_like(a, 0.5), torch.ones(3, 1)
    line = (a * worst_shared(a, weight, x, Ball(0.3, clip)).unsqueeze(1)).flatten(1).sum(1)
    assert not (line[:2] > -torch.inf).any() and line[2] == pytest.approx(-0.9)


# ------------------------------------------------------------------------------ tighten


@random_test(20, 35, **nets, rows=st.sampled_from((3, 256)))
def test_tightened_bounds_contain_samples_and_are_never_looser(kind, seed, eps, clip, rows):
    engine, images, exact = prepare(kind, seed, eps, clip, crown=False)
    _, moved = perturbed(images, eps, clip, 400)
    seen, _ = relu_inputs(exact, moved.flatten(0, 1))
    boxes = [Box(*b) for b in images.bounds]
    bounds = tighten(engine.segments, images.x, Ball(eps, clip), boxes, rows=rows).bounds
    assert len(bounds) == len(seen)
    for (lower, upper), given_, z in zip(bounds, boxes, seen, strict=True):
        assert lower.shape == given_.lower.shape
        samples = z.view(len(images), -1, z.shape[1])
        slack = 2.02e-6 * (1 + torch.maximum(given_.lower.abs(), given_.upper.abs()))
        assert (lower.flatten(1) <= samples.amin(1) + 1e-6).all()
        assert (upper.flatten(1) >= samples.amax(1) - 1e-6).all()
        assert (lower >= given_.lower - slack).all()
        assert (upper <= given_.upper + slack).all()


@pytest.mark.parametrize("clip", CLIPS)
def test_tightening_helps(clip):
    gain = 0.0
    for seed in range(8):
        engine, images, _ = prepare(("deep", "residual")[seed % 2], seed, 0.3, clip, crown=False)
        tightened = engine.tightened(images)
        for (low, high), (low0, high0) in zip(images.bounds, tightened.bounds, strict=True):
            gain += float((low0 - low).sum() + (high - high0).sum())
    assert gain > 1


@random_test(15, 25, **nets)
def test_refined_bounds_hold_in_float64(kind, seed, eps, clip):
    """Without a slack for float32: proofs near zero rest on them."""
    engine, images, exact = prepare(kind, seed, eps, clip, crown=False)
    images = replace(images, x=images.x + 1000.0 * (seed % 2))  # roundings of float32 are seen
    images, *_ = engine.ibp(images.x, images.y)
    refined = engine.refined(images)
    assert refined.exact and not images.exact and not engine.tightened(images).exact
    _, moved = perturbed(images, eps, clip, 400)
    seen, _ = relu_inputs(exact, moved.flatten(0, 1))
    for (lower, upper), loose, z in zip(refined.bounds, images.bounds, seen, strict=True):
        assert lower.dtype == upper.dtype == torch.float32
        samples = z.view(len(images), -1, z.shape[1])
        assert (lower.flatten(1).double() <= samples.amin(1)).all()
        assert (upper.flatten(1).double() >= samples.amax(1)).all()
        size = 1 + torch.maximum(loose[0].abs(), loose[1].abs())
        assert (lower >= loose[0] - 1e-5 * size).all() and (upper <= loose[1] + 1e-5 * size).all()


def test_images_together_are_exact_only_if_all_are():
    engine, images, _ = prepare("deep", 0, 0.1, None)
    exact = engine.refined(images)
    assert Images.cat([exact, exact]).exact and exact.rows(torch.tensor([1])).exact
    assert not Images.cat([exact, images]).exact and not Images.cat([images, exact]).exact
    assert not images.rows(torch.tensor([1])).exact


def test_intervals_are_moved_outward():
    engine, images, _ = prepare("deep", 0, 0.1, None, crown=False)
    box = Box.around(images.x, 0.1, None)
    for (lower, upper), plain in zip(
        images.bounds, engine.net.preactivation_bounds(box), strict=True
    ):
        size = 1 + torch.maximum(plain.lower.abs(), plain.upper.abs())
        assert (lower < plain.lower + 1e-6 * size).all() and (
            lower > plain.lower - 1e-4 * size
        ).all()
        assert (upper > plain.upper - 1e-6 * size).all() and (
            upper < plain.upper + 1e-4 * size
        ).all()


def test_bounds_are_rounded_outward_to_float32():
    lower = torch.randn(1000, dtype=torch.float64) * 10.0 ** torch.randint(-6, 6, (1000,))
    upper = lower + torch.rand(1000, dtype=torch.float64)
    ((below, above),) = rounded([(lower, upper)], torch.float32)
    assert below.dtype == above.dtype == torch.float32
    assert (below.double() < lower).all() and (above.double() > upper).all()
    assert torch.allclose(below.double(), lower, rtol=1e-6)


def test_a_layer_without_unstable_neurons_needs_no_tightening():
    model = nn.Sequential(
        nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)
    ).eval()
    with torch.no_grad():
        model[2].bias += 100.0
    x = torch.rand(2, 2)
    engine = DualEngine(BoundedNet(model, x).eval(), Ball(0.3))
    images, *_ = engine.ibp(x, model(x).argmax(1))
    assert all(bool((lower > 0).all()) for lower, _ in images.bounds[1:])
    bounds = engine.tightened(images).bounds
    assert torch.allclose(bounds[1][0], images.bounds[1][0], rtol=1e-4)


@pytest.mark.parametrize("eps", [1.0, 1.6])
def test_bounds_beyond_float32_prove_nothing(eps):
    """The width of a neuron's bounds overflows, while the network's own values do not."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        model[0].weight.fill_(2e38)
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[0.0], [1e-38]]))
        model[2].bias.copy_(torch.tensor([1.0, 0.0]))
        assert model(torch.tensor([[0.0], [1.0]])).argmax(1).tolist() == [0, 1]
    x, y = torch.zeros(1, 1), torch.tensor([0])
    net = BoundedNet(model, x)
    proofs = certify(net, x, y, eps, method="bab", time_limit=0.1)
    assert not proofs.certified.any()
    # one perturbation breaks two such images; the attack is kept from finding it
    x, y = x.repeat(2, 1), y.repeat(2)
    forged = certify(net, x, y, eps, method="ibp")
    found = certify_uap(
        net, x, y, eps, group_size=2, certificates=forged, time_limit=0.1, attack=no_attack
    )
    assert (found.lower.tolist(), found.upper.tolist()) == ([0], [2])


def no_attack(net, x, y, eps, worth):
    return SimpleNamespace(
        u=torch.zeros(len(x), 1, *x.shape[2:]), broken=torch.zeros_like(y, dtype=torch.bool)
    )


def test_relaxation_keeps_the_unstable_neurons_alone():
    lower = torch.tensor([[-1.0, 0.0, -2.0, 1.0], [-1.0, -1.0, -1.0, 0.0]])
    upper = torch.tensor([[2.0, 3.0, -1.0, 2.0], [0.0, 1.0, 2.0, 0.0]])
    r = Relaxation.of([(lower, upper)], [torch.ones(2, 1)])
    assert r.active[0].tolist() == [[0, 1, 0, 1], [0, 0, 0, 0]]
    kept = [
        sorted(i for i, low in zip(places, lows, strict=True) if low < 0)
        for places, lows in zip(r.index[0].tolist(), r.lower.tolist(), strict=True)
    ]
    assert kept == [[0], [1, 2]]
    split = r.split(torch.tensor([[1, 0], [-1, 1]]))
    assert (split.lower[0, 0], split.upper[0, 0]) == (0, 2)
    assert split.upper[1, 0] == 0 and split.lower[1, 1] == 0
    assert specification(torch.tensor([0]), 2).tolist() == [[[1, -1]]]
