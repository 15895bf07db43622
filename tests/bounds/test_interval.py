"""The fast way through a network against auto_LiRPA's: values, bounds and gradients."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from reference import MODELS as SMALL
from reference import SHAPE, batch, wrapped
from torch import nn

from citrus_lirpa import PGD, BoundedNet, Box, robust_cross_entropy
from citrus_lirpa.bounds import elementwise, lirpa
from citrus_lirpa.bounds.box import Interval
from citrus_lirpa.bounds.margins import specification
from citrus_lirpa.bounds.precision import float32_products
from citrus_lirpa.bounds.segments import INPUT
from citrus_lirpa.bounds.steps import laid_out
from citrus_lirpa.errors import DependencyError
from citrus_lirpa.losses import Citrus

EPS = 0.05


class Residual(nn.Module):
    """Two convolutions around a shortcut, BatchNorm before and behind the sum."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.last = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 3))

    def forward(self, x):
        z = self.first(x).relu()
        return self.last(self.norm(z) + self.second(z))


class Shared(nn.Module):
    """A convolution whose result is taken twice: its BatchNorm cannot be folded into it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3, dilation=2), nn.BatchNorm2d(3)
        self.last = nn.Linear(3, 3)

    def forward(self, x):
        z = self.conv(x)
        return self.last((self.norm(z) + z).relu().view(-1, 3))


class Branches(nn.Module):
    """Two branches with ReLUs, added in another order than they are computed in."""

    def __init__(self):
        super().__init__()
        self.long = nn.Sequential(
            *(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        )
        self.short = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU())
        self.last = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(100, 3))

    def forward(self, x):
        first = self.long(x)
        return self.last(self.short(x) + first)


def averages():
    """Pooling by averages, in windows and then of all that is left."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 2), nn.ReLU(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


MODELS = {
    **SMALL,
    "residual": Residual,
    "shared": Shared,
    "branches": Branches,
    "averages": averages,
}
every_model = pytest.mark.parametrize("name", MODELS)


def by_auto_lirpa(net, box, y):
    """Margins and bounds of ReLU inputs that auto_LiRPA itself computes."""
    library, (lower, upper) = lirpa.load(), net.input_box(box)
    boxed = library.BoundedTensor(lower, library.PerturbationLpNorm(x_L=lower, x_U=upper))
    c = specification(y, net.classes, lower.dtype)
    margins = net.bounded.compute_bounds(x=(boxed,), C=c, method="IBP", bound_upper=False)[0]
    before = [net.graph.operations[name].node.inputs[0] for name in net.graph.relus]
    return margins, [end for node in before for end in (node.lower, node.upper)]


def by_us(net, box, y):
    found = net.bound(box, y)
    return found.margins, [end for bounds in found.preactivation_boxes for end in bounds]


@pytest.mark.parametrize("training", [True, False])
@every_model
def test_bounds_and_gradients_are_auto_lirpas(name, training, double):
    """Gradients in the weights and, as TAPS and user code need them, in the ends of the boxes."""
    (x, y), seen = batch(), []
    net = wrapped(MODELS[name]()).train(training)
    assert net.fast is not None
    y, x = y.repeat_interleave(2), x.repeat_interleave(2, 0)
    for bounds in (by_us, by_auto_lirpa):
        net(x)
        ends = (x - EPS).requires_grad_(), (x + EPS).requires_grad_()
        margins, before = bounds(net, Box(*ends), y)
        total = margins.exp().sum() + sum(end.pow(2).mean() for end in before)
        seen.append([margins, before, torch.autograd.grad(total, [*ends, *net.parameters()])])
    torch.testing.assert_close(*seen, atol=1e-9, rtol=1e-7)


@every_model
def test_the_frozen_network_is_the_network_and_no_weight_gets_a_gradient(name, double):
    net, (x, _) = wrapped(MODELS[name]()).eval(), batch()
    x.requires_grad_()
    logits, expected = net.frozen()(x), net.module(x)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(v.square().sum(), x)[0] for v in (logits, expected))
    )
    assert not net.frozen()(x.detach()).requires_grad


@pytest.mark.parametrize("name", ["residual", "branches"])
def test_bounds_of_a_relu_are_those_of_its_affine_piece(name):
    """The verifier takes the k-th bounds for the k-th segment."""
    net, (x, _) = wrapped(MODELS[name]()).eval(), batch()
    box = Box.around(x, EPS)
    values = {INPUT: torch.lerp(box.lower, box.upper, torch.rand_like(x))}
    with torch.no_grad():
        for number, bounds in enumerate(net.preactivation_bounds(box)):
            segment = net.affine_segments()[number]
            z = segment(*(values[source] for source in segment.sources))
            assert bool((bounds.lower <= z + 1e-5).all() and (z <= bounds.upper + 1e-5).all())
            values[number] = z.relu()
    assert len(values) == net.relus + 1


def test_boxes_of_large_layers_are_made_in_parts_as_whole(monkeypatch):
    x, y = batch(6)
    found = []
    for numbers in (1, 10**6):
        monkeypatch.setattr(elementwise, "_PART", numbers)
        torch.manual_seed(0)
        net = wrapped(SMALL["conv"]())
        robust_cross_entropy(net.margins(Box.around(x, 0.1), y)).sum().backward()
        found.append([weight.grad for weight in net.parameters()])
    assert all(map(torch.equal, *found))


def test_gradients_of_gradients_do_not_depend_on_the_parts(monkeypatch):
    found = []
    for numbers in (8, 2**17):
        monkeypatch.setattr(elementwise, "_PART", numbers)
        ends = [torch.linspace(-1.0, 1.0, 20, requires_grad=True).view(5, 4) for _ in range(2)]
        box = elementwise.interval_relu(Interval(ends[0] * 3, ends[1].square()))
        total = (box.centre.square() + box.radius.square()).sum()
        (slope,) = torch.autograd.grad(total, ends[0], create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), ends[0])[0])
    assert torch.equal(*found) and found[0].abs().sum() > 0


def test_points_of_a_box_lie_within_its_bounds_in_float32():
    """Boxes around zero among them, and some that are points: the result loses no corner."""
    net = wrapped(Residual()).eval()
    x = torch.rand(200, *SHAPE)
    for radius in (0.0, 1e-3, 0.3):
        box = Box.around(x, radius)
        share = torch.rand(8, *x.shape).round()  # corners
        points = torch.lerp(box.lower, box.upper, share)
        y = torch.randint(3, (200,))
        bounds = net.margins(box, y).min(dim=1).values
        with torch.no_grad():
            logits = net(points.flatten(0, 1)).view(8, 200, 3)
        own = logits.gather(2, y.expand(8, -1).unsqueeze(2))
        others = logits.scatter(2, y.expand(8, -1).unsqueeze(2), -torch.inf)
        margins = (own - others).min(dim=2).values
        assert bool((bounds <= margins + 1e-5).all())


UNSUITABLE = {
    "a sigmoid": [nn.Flatten, lambda: nn.Linear(50, 4), nn.Sigmoid, lambda: nn.Linear(4, 3)],
    "maxima": [lambda: nn.MaxPool2d(5), nn.Flatten, nn.ReLU, lambda: nn.Linear(2, 3)],
    "no linear layer at the end": [nn.Flatten, lambda: nn.Linear(50, 3), nn.ReLU],
}


@pytest.mark.parametrize("what", UNSUITABLE)
def test_other_layers_are_left_to_auto_lirpa(what):
    model, (x, y) = nn.Sequential(*(layer() for layer in UNSUITABLE[what])), batch()
    net = BoundedNet(model, torch.rand(2, *SHAPE)).eval()
    assert net.fast is None
    box = Box.around(x, EPS)
    assert net.margins(box, y).shape == (len(x), 2)
    torch.testing.assert_close(net.frozen()(x), net.module(x))


def test_batchnorm_with_options_of_its_own_is_left_to_auto_lirpa():
    example = torch.rand(2, *SHAPE)
    with lirpa.parsing():
        bounded = lirpa.load().BoundedModule(
            SMALL["conv"](normalise=False).eval(), example, bound_opts={"bn": {"var": False}}
        )
    assert BoundedNet(bounded).fast is None


def test_a_width_that_rounds_to_nothing_is_kept():
    """Between a centre of 1e4 and its neighbours there is no float32."""
    lower, upper = torch.tensor([9999.9990]), torch.tensor([10000.0010])
    box = Interval.of(Box(lower, upper))
    assert float(box.radius) > 0 and float(box.centre + box.radius) >= float(upper)


def test_images_are_laid_out_channels_last_and_nothing_else_is():
    assert laid_out(torch.rand(2, 3, 4, 4)).is_contiguous(memory_format=torch.channels_last)
    flat = torch.rand(2, 3)
    assert laid_out(flat) is flat


# -- precision and compilation ----------------------------------------------------------


def test_attacks_in_bfloat16_find_nearly_the_same_and_bounds_stay_as_they_are():
    """Nine tenths of what the attack adds to the loss; v in float32, within ε and the pixels."""
    net, (x, y) = wrapped(SMALL["conv"]()), batch(60)
    box = Box.around(x, EPS)
    found, bounds = {}, {}
    for dtype in (None, torch.bfloat16):
        net.attack_dtype = dtype
        torch.manual_seed(0)
        v = PGD()(net, x, y, 0.3)
        assert v.dtype == torch.float32 and float(v.abs().max()) <= 0.3 + 1e-6
        assert bool(((x + v >= -1e-6) & (x + v <= 1 + 1e-6)).all())
        with torch.no_grad(), net.evaluating():
            found[dtype] = float(F.cross_entropy(net(x + v), y))
            bounds[dtype] = net.margins(box, y)
    clean = float(F.cross_entropy(net.eval()(x), y).detach())
    assert found[None] > clean + 0.05
    assert found[torch.bfloat16] >= found[None] - 0.1 * (found[None] - clean)
    assert torch.equal(*bounds.values())


@pytest.mark.parametrize("what", UNSUITABLE)
def test_networks_without_a_fast_way_are_attacked_in_bfloat16_too(what):
    model = nn.Sequential(*(layer() for layer in UNSUITABLE[what]))
    net, (x, _) = BoundedNet(model, torch.rand(2, *SHAPE)).eval(), batch()
    exact = net.frozen()(x)
    net.attack_dtype = torch.bfloat16
    rounded = net.frozen()(x)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.05)


@pytest.mark.filterwarnings("ignore")  # torch warns of its own code
@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.nightly)]
)
def test_compiled_and_not_are_the_same(monkeypatch, backend):
    """Bounds and an attack's logits, with the gradients of both, within 1e-5.

    What torch makes of the graphs, C++ by default, takes long.
    """
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    model, (x, y) = SMALL["conv"](), batch()
    seen = []
    wrapped(model)
    for compiled in (False, True):
        net = BoundedNet(copy.deepcopy(model), torch.rand(2, *SHAPE)).train()
        if compiled:
            net.compile()
        z = x.clone().requires_grad_()
        with net.evaluating():
            logits = net.frozen()(z)
        (slopes,) = torch.autograd.grad(F.cross_entropy(logits, y), z)
        net(x)
        bounds = net.bound(Box.around(x, EPS), y)
        first = bounds.preactivation_boxes[0].upper
        (robust_cross_entropy(bounds.margins).mean() + first.mean()).backward()
        seen.append([logits, slopes, bounds.margins, *(p.grad.clone() for p in net.parameters())])
    torch.testing.assert_close(*seen, atol=1e-5, rtol=1e-5)


def test_without_a_compiler_there_is_one_clear_line(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    with pytest.raises(
        DependencyError, match=r"no C\+\+ compiler and more, at .*; it needs .* --compile$"
    ):
        wrapped(SMALL["mlp"]()).compile()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("tf32", "tolerance"), [(False, 1e-4), (True, 2e-2)])
@pytest.mark.parametrize("name", SMALL)
def test_losses_and_gradients_on_a_gpu_are_those_of_the_cpu(name, tf32, tolerance, compiled):
    """Of one batch with given perturbations, so that nothing but rounding differs."""
    x, y = batch()
    v = torch.empty_like(x).uniform_(-EPS, EPS)
    loss = Citrus(attack=lambda net, x, y, eps: v.to(x.device).clamp(-eps, eps))
    model, found = wrapped(SMALL[name]()).module, {}
    for device in ("cpu", "cuda"):
        net = BoundedNet(copy.deepcopy(model).to(device), x[:2].to(device)).train()
        if compiled and device == "cuda":
            net.compile()
        with float32_products(tf32=tf32):
            terms = loss(net, x.to(device), y.to(device), EPS)
            terms.backward()
        gradients = torch.cat([p.grad.flatten() for p in net.parameters()]).cpu()
        found[device] = terms.total.detach().cpu(), gradients
    (value, gradient), (other, on_gpu) = found["cpu"], found["cuda"]
    assert abs(other - value) <= tolerance * abs(value)
    assert (on_gpu - gradient).norm() <= tolerance * gradient.norm()
