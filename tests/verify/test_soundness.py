"""Bounds of every method and model against sampled points and against exact answers.

The exact answers are for nets of two inputs: a ReLU net is linear on each of finitely many
polygons, so its smallest margin stands at one of their corners, and the inputs that one
shared perturbation breaks can be counted by intersecting polygons. No solver is involved;
one test compares this with linear programs over all activation patterns.
"""

import functools
import itertools

import numpy as np
import pytest
import torch
from networks import QUICK
from polygons import exact_margins, exact_survivors, layers_of, tiny
from torch import nn

from citrus_lirpa import (
    METHODS,
    PGD,
    BoundedNet,
    Box,
    Shifts,
    certify,
    certify_uap,
    cross_input_boxes,
)
from citrus_lirpa.bounds.margins import logit_margins, wrong_classes
from citrus_lirpa.models import build_model

#: Bounds and samples are float32: they may cross by this share of the largest logit.
TOLERANCE = 1e-5
SAMPLES = 1000

#: Image shape and options; the second shape is for alpha-crown, which is slow.
NETS = {
    "mlp": ((1, 8, 8), (1, 8, 8), {"hidden": [20, 20]}),
    "convsmall": ((1, 28, 28), (1, 14, 14), {}),
    "cnn7": ((3, 16, 16), (3, 8, 8), {"width": 2, "linear": 16}),
    "cnn5": ((3, 16, 16), (3, 8, 8), {"width": 2, "linear": 16}),
}

# --------------------------------------------------------------------- sampled points


def briefly_trained(model: nn.Module, shape) -> None:
    """A few Adam steps on random data, which also move the BatchNorm statistics."""
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    x, y = torch.rand(32, *shape), torch.randint(5, (32,))
    for _ in range(5):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model.train()(x), y).backward()
        optimiser.step()


def several_boxes(x):
    """A single point, a small and a wide box, and two cross-input boxes."""
    radius = torch.tensor([0.0, 0.01, 0.3]).view(3, 1, 1, 1)
    plain = Box.around(x[:3], radius)
    pair, eps, tau = x[3:], 0.05, 0.01
    v = (eps - tau) * torch.randn_like(pair).sign()
    cross = cross_input_boxes(pair, v, tau, Shifts(1)(2))
    return Box(torch.cat([plain.lower, cross.lower]), torch.cat([plain.upper, cross.upper]))


def sample(box: Box, corners: bool):
    """(SAMPLES / 2, N, ...) points of each box."""
    share = torch.rand(SAMPLES // 2, *box.lower.shape)
    return torch.lerp(box.lower, box.upper, share.round() if corners else share)


def steepest_corners(model: nn.Module, box: Box, y):
    """(3 (K-1), N, ...) points: sign-gradient steps down each margin, corners mostly."""
    points = []
    for wrong in wrong_classes(y, model(box.lower).shape[1]).T:
        x = box.centre
        for step in (1.0, 0.5, 0.5):
            x.requires_grad_(True)
            logits = model(x)
            margin = logits.gather(1, y.view(-1, 1)) - logits.gather(1, wrong.view(-1, 1))
            (gradient,) = torch.autograd.grad(margin.sum(), x)
            moved = x.detach() - 2 * step * box.radius * gradient.sign()
            x = torch.minimum(torch.maximum(moved, box.lower), box.upper)
            points.append(x)
    return torch.stack(points)


@functools.cache
def case(name: str, trained: bool, small: bool):
    """net, boxes, labels, lowest margins sampled and ranges of each ReLU's inputs."""
    torch.manual_seed(0)
    shape, options = NETS[name][small], NETS[name][2]
    channels = shape[0]
    model = build_model(
        name, shape=shape, classes=5, mean=(0.4, 0.5, 0.3)[:channels],
        std=(0.2, 0.3, 0.25)[:channels], **options,
    )  # fmt: skip
    if trained:
        briefly_trained(model, shape)
    model.eval()
    net = BoundedNet(model, torch.rand(1, *shape)).eval()
    box = several_boxes(torch.rand(5, *shape))
    y = torch.arange(5)

    seen = []
    relus = [layer for layer in model if isinstance(layer, nn.ReLU)]
    points = torch.cat([sample(box, False), sample(box, True), steepest_corners(model, box, y)])
    for relu in relus:
        relu.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        logits = model(points.flatten(0, 1))
    for relu in relus:
        relu._forward_pre_hooks.clear()
    values = [z.view(len(points), 5, *z.shape[1:]) for z in seen]
    ranges = [Box(z.amin(0), z.amax(0)) for z in values]
    margins = logit_margins(logits, y.repeat(len(points))).view(len(points), 5, -1)
    slack = TOLERANCE * float(logits.abs().max())
    return net, box, y, margins.amin(0), ranges, slack


@functools.cache
def bounds(name: str, trained: bool, small: bool, method: str):
    """Margins of the case, and the bounds of each ReLU's inputs of the same pass."""
    net, box, y, *_ = case(name, trained, small)
    with torch.no_grad():
        found = net.bound(box, y, method)
        return found.margins, found.preactivation_boxes


@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", METHODS)
def test_no_point_leaves_the_bounds(name, trained, method):
    *_, lowest, ranges, slack = case(name, trained, method == "alpha-crown")
    bound, inside = bounds(name, trained, method == "alpha-crown", method)
    assert bound.shape == lowest.shape
    assert (bound <= lowest + slack).all()
    assert torch.allclose(bound[0], lowest[0], rtol=0, atol=slack)  # the box of one point

    assert [b.lower.shape for b in inside] == [r.lower.shape for r in ranges]
    for layer, sampled in zip(inside, ranges, strict=True):
        size = TOLERANCE * max(1.0, float(sampled.upper.abs().max()))
        assert (layer.lower <= sampled.lower + size).all()
        assert (layer.upper >= sampled.upper - size).all()
        assert torch.allclose(layer.lower[0], sampled.lower[0], rtol=0, atol=size)


@pytest.mark.parametrize("name", NETS)
def test_dearer_methods_are_tighter(name):
    of = {method: bounds(name, True, True, method)[0] for method in METHODS}
    small = torch.tensor([1, 3, 4])  # on wide boxes CROWN-IBP may be looser than IBP
    mean = [float(of[method][small].mean()) for method in ("ibp", "crown-ibp", "crown")]
    assert mean == sorted(mean) and len(set(mean)) == 3
    assert (of["alpha-crown"] >= of["crown"]).all()
    inside = {method: bounds(name, True, True, method)[1] for method in ("ibp", "crown")}
    for loose, tight in zip(*inside.values(), strict=True):  # CROWN's are cut with IBP's
        slack = TOLERANCE * max(1.0, float(loose.upper.abs().max()))
        assert (tight.lower >= loose.lower - slack).all()
        assert (tight.upper <= loose.upper + slack).all()
    assert float((of["alpha-crown"] - of["crown"]).mean()) > 1e-3


# ----------------------------------------------------------------- exact, in two inputs


HIDDEN = [(6,), (5, 4)]


@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_exact_method_agrees_with_linear_programs(hidden):
    optimize = pytest.importorskip("scipy.optimize")
    model, y = tiny(0, hidden), torch.tensor([2])
    box = Box.around(torch.tensor([[0.5, 0.4]]), 0.3)
    (w0, b0), *later = layers_of(model)
    lowest = np.inf
    for pattern in itertools.product((0.0, 1.0), repeat=sum(hidden)):
        slope, offset, cuts = w0, b0, []
        on, spare = np.split(np.array(pattern), [hidden[0]])
        for weight, bias in later:
            cuts += [
                ((1 - 2 * s) * a, (2 * s - 1) * b)
                for s, a, b in zip(on, slope, offset, strict=True)
            ]
            slope, offset = weight @ (on[:, None] * slope), weight @ (on * offset) + bias
            on = spare
        normals, limits = map(np.array, zip(*cuts, strict=True))
        limited = list(zip(box.lower[0].tolist(), box.upper[0].tolist(), strict=True))
        for wrong in (0, 1):
            lp = optimize.linprog(slope[2] - slope[wrong], normals, limits, bounds=limited)
            if lp.status == 0:
                lowest = min(lowest, lp.fun + offset[2] - offset[wrong])
    assert float(exact_margins(model, box, y)) == pytest.approx(lowest, abs=1e-7)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_bounds_stay_below_the_exact_minimum(hidden, clip):
    certified = refuted = 0
    for seed in range(3):
        model, x = tiny(seed, hidden), torch.rand(6, 2)
        net = BoundedNet(model, x)
        y = model(x).argmax(1)
        y[0] = (y[0] + 1) % 3  # wrong without perturbation
        for eps in (0.02, 0.1, 0.3):
            box = Box.around(x, eps, clip)
            exact = exact_margins(model, box, y)
            with torch.no_grad():
                rows = {m: net.margins(box, y, m) for m in METHODS}
            lowest = {m: bounds.min(dim=1).values for m, bounds in rows.items()}
            for method, bound in lowest.items():
                assert (bound <= exact + TOLERANCE).all(), method
            # a margin is bounded by the best method of its own row
            best = torch.stack([rows[m] for m in ("ibp", "crown-ibp", "crown")]).amax(0)
            union = certify(net, x, y, eps, clip=clip, method="crown")
            assert torch.equal(union.certified, (best > 1e-4).all(1) & union.correct)
            tried = union.correct & ~union.certified
            by_one = torch.stack([lowest[m] for m in ("ibp", "crown-ibp", "crown")]).amax(0)
            # of the same method, but bounds are widened by more than float32 rounding
            assert (union.margin[tried] >= by_one[tried] - 10 * TOLERANCE).all()
            assert (union.margin[tried] <= best.amin(1)[tried] + TOLERANCE).all()

            proofs = certify(net, x, y, eps, clip=clip)
            assert not (proofs.certified & (exact <= 0)).any()
            assert (proofs.certified >= union.certified).all()
            assert (proofs.margin >= union.margin).all()
            assert (proofs.margin <= exact + TOLERANCE).all()
            certified += int(proofs.certified.sum())
            refuted += int((proofs.correct & (exact <= 0)).sum())
    assert certified >= 10
    assert refuted >= 5


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_branch_and_bound_is_exact(hidden, clip):
    """It proves what is safe and nothing else; what is not safe, it or PGD nearly always breaks."""
    certified = broken = missed = 0
    for seed in range(5):
        model, x = tiny(seed, hidden), torch.rand(8, 2)
        net = BoundedNet(model, x)
        y = model(x).argmax(1)
        y[0] = (y[0] + 1) % 3
        for eps in (0.05, 0.2, 0.4):
            exact = exact_margins(model, Box.around(x, eps, clip), y)
            sure = exact.abs() > 1e-6
            attack = PGD(20, restarts=4, clip=clip)
            proofs = certify(net, x, y, eps, clip=clip, method="bab", attack=attack, time_limit=1)
            assert torch.equal(proofs.certified[sure], ((exact > 0) & proofs.correct)[sure])
            unsafe = (exact < 0) & proofs.correct
            assert (proofs.attacked <= unsafe)[sure].all()
            certified += int(proofs.certified.sum())
            broken += int(proofs.attacked.sum())
            missed += int((unsafe & ~proofs.attacked).sum())
    assert certified >= 20 and broken >= 20 and missed <= 2


@pytest.mark.parametrize("hidden", HIDDEN)
def test_uap_bounds_of_every_stage_enclose_the_exact_number_of_survivors(hidden):
    gained = dict.fromkeys(("io", "cross", "bab"), 0)
    for seed in range(5):
        model, x = tiny(seed, hidden), torch.rand(4, 2)
        net = BoundedNet(model, x)
        y = model(x).argmax(1)
        for eps in (0.15, 0.3):
            exact = exact_survivors(model, x, y, eps)
            below = -1
            alone = certify(net, x, y, eps)
            split = certify(net, x, y, eps, method="bab", attack=PGD(20), time_limit=0.1)
            for stage, proofs in (("none", alone), ("io", alone), ("cross", alone), ("bab", split)):
                uap = certify_uap(
                    net, x, y, eps, group_size=4, certificates=proofs, time_limit=1, attack=QUICK,
                    relational="cross" if stage == "bab" else stage,
                )  # fmt: skip
                assert below <= uap.lower.item() <= exact <= uap.upper.item(), stage
                if stage != "none":
                    gained[stage] += uap.lower.item() - below
                below = uap.lower.item()
    assert sum(gained.values()) > 0


@pytest.mark.parametrize("hidden", HIDDEN)
def test_uap_bounds_enclose_the_exact_number_of_survivors(hidden):
    exact_values, below, above = [], 0, 0
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 81)] * 2)
    for seed in range(4):
        model, x = tiny(seed, hidden), torch.rand(4, 2)
        net = BoundedNet(model, x)
        y = model(x).argmax(1)
        y[0] = (y[0] + seed % 2) % 3
        for eps in (0.1, 0.3):
            exact = exact_survivors(model, x, y, eps)
            uap = certify_uap(net, x, y, eps, group_size=4, attack=QUICK)
            assert uap.lower.item() <= exact <= uap.upper.item()
            with torch.no_grad():
                right = model(x + eps * grid[:, None]).argmax(-1) == y
            on_grid = int((right & (model(x).argmax(1) == y)).sum(dim=1).min())
            assert exact <= on_grid
            exact_values.append(exact)
            below += exact - uap.lower.item()
            above += on_grid - exact
    assert len(set(exact_values)) >= 3
    assert above <= 1  # the grid is fine enough to miss nearly nothing
    assert below <= len(exact_values)  # and what is certified alone is not far below
