"""BoundedNet: what it shares with the user's module, what it leaves alone, what it refuses."""

import contextlib
import copy
import math

import pytest
import torch
from reference import assert_contains
from torch import nn

from citrus_lirpa import METHODS, BoundedNet, Box, certify
from citrus_lirpa.bounds import lirpa as ours
from citrus_lirpa.bounds import tracing
from citrus_lirpa.bounds.net import as_bounded_net
from citrus_lirpa.errors import CitrusError, InputError
from citrus_lirpa.models import Normalise

#: Share of the largest logit by which float32 bounds and samples may cross.
TOLERANCE = 1e-5


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def with_batchnorm():
    model = nn.Sequential(
        Normalise((0.4, 0.5), (0.2, 0.3)), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip
    for layer in (model[2], model[6]):
        layer.running_mean.uniform_(-0.5, 0.5)
        layer.running_var.uniform_(0.5, 2)
    return model


# ------------------------------------------------------------------------------- values


def by_hand():
    """Logits relu(a + b) + relu(a - b) and 0, of the two inputs a and b."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    model[0].weight.data = torch.tensor([[1.0, 1], [1, -1]])
    model[2].weight.data = torch.tensor([[1.0, 1], [0, 0]])
    model[0].bias.data.zero_()
    model[2].bias.data.zero_()
    return model


@pytest.mark.parametrize("method", METHODS)
def test_bounds_worked_out_by_hand(method):
    """On 0 <= a <= 1, |b| <= 0.5 both sums lie in [-0.5, 1.5], so relu(s) <= 0.75 (s + 0.5)."""
    net = BoundedNet(by_hand(), torch.rand(1, 2))
    box = Box(torch.tensor([[0.0, -0.5]]), torch.tensor([[1.0, 0.5]]))
    most = 3.0 if method == "ibp" else 0.75 * (2 * 1.0 + 1)  # of the first logit
    assert net.margins(box, torch.tensor([1]), method).item() == pytest.approx(-most, abs=1e-5)
    assert net.margins(box, torch.tensor([0]), method).item() == pytest.approx(0, abs=1e-5)
    (inside,) = net.bound(box, torch.tensor([0]), method).preactivation_boxes
    assert inside.lower.tolist() == [[-0.5, -0.5]] and inside.upper.tolist() == [[1.5, 1.5]]


@pytest.mark.parametrize("method", METHODS)
def test_one_pass_gives_bounds_of_margins_inputs_and_relus(method):
    model, box, y = (
        with_batchnorm().eval(),
        Box.around(torch.rand(3, 2, 4, 4), 0.05),
        torch.arange(3),
    )
    net = BoundedNet(model, box.lower).eval()
    bounds = net.bound(box, y, method)
    assert torch.equal(bounds.margins, net.margins(box, y, method)) and bounds.box is box
    point = torch.lerp(box.lower, box.upper, torch.rand_like(box.lower))
    assert bool(
        ((model[0](point) - bounds.inputs.centre).abs() <= bounds.inputs.radius + 1e-5).all()
    )
    assert len(bounds.preactivations) == net.relus == 2
    for end, interval, ends in zip(
        (3, 7), bounds.preactivations, bounds.preactivation_boxes, strict=True
    ):
        z = model[:end](point)
        assert bool(((z - interval.centre).abs() <= interval.radius + 1e-5).all())
        assert bool((ends.lower <= z + 1e-5).all() and (z <= ends.upper + 1e-5).all())
    assert net.bound(box).margins is None
    assert all(len(sizes) == 3 and bool((sizes >= 0).all()) for sizes in bounds.magnitudes)


@pytest.mark.parametrize("method", METHODS)
def test_normalisation_is_exact(method):
    """As if it were folded into the first convolution, which has no padding."""
    model = with_batchnorm().eval()
    folded = copy.deepcopy(model)[1:]
    mean, std, first = model[0].mean, model[0].std, folded[0]
    first.weight.data = model[1].weight / std.unsqueeze(0)
    first.bias.data = model[1].bias - (first.weight * mean.unsqueeze(0)).sum((1, 2, 3))
    box, y = Box.around(torch.rand(3, 2, 4, 4), 0.05), torch.arange(3)
    nets = [BoundedNet(module, box.lower).eval() for module in (model, folded)]
    margins, expected = (net.margins(box, y, method) for net in nets)
    assert torch.allclose(margins, expected, rtol=0, atol=2e-5)
    assert torch.allclose(nets[0](box.lower), model(box.lower))


def test_an_existing_bounded_module_is_used():
    lirpa, model, x = ours.load(), mlp().eval(), torch.rand(3, 4)
    with ours.parsing():
        bounded = lirpa.BoundedModule(model, x[:1])
    bounded.eval()
    net, y = as_bounded_net(bounded), torch.tensor([2, 0, 1])
    assert net.bounded is bounded
    assert {p.data_ptr() for p in net.parameters()} == {p.data_ptr() for p in model.parameters()}
    box = Box.around(x, 0.1, None)
    ptb = lirpa.PerturbationLpNorm(norm=math.inf, x_L=x - 0.1, x_U=x + 0.1)
    spec = torch.eye(3)[y].unsqueeze(1) - torch.eye(3)[torch.tensor([[0, 1], [1, 2], [0, 2]])]
    own = bounded.compute_bounds(x=(lirpa.BoundedTensor(x, ptb),), C=spec, method="IBP")[0]
    assert torch.allclose(net.margins(box, y), own, atol=1e-6)
    assert torch.equal(net(x), model(x))
    assert_contains(net, box, y, model)


# ------------------------------------------------------------ shared with the user's module


def test_parameters_and_statistics_are_the_users_own():
    model, x, y = with_batchnorm(), torch.rand(6, 2, 4, 4), torch.arange(3)
    net, box = BoundedNet(model, x).eval(), Box.around(x[:3], 0.02)
    assert [p.data_ptr() for p in net.parameters()] == [p.data_ptr() for p in model.parameters()]
    old = net.margins(box, y).detach()

    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    net.train()
    nn.functional.cross_entropy(net(x), y.repeat(2)).backward()
    optimiser.step()
    other = with_batchnorm()
    other.load_state_dict(model.state_dict())
    net.eval()
    fresh = BoundedNet(other, x).eval()
    assert not torch.allclose(net.margins(box, y), old, atol=1e-3)
    for method in METHODS:
        assert torch.allclose(net.margins(box, y, method), fresh.margins(box, y, method), atol=1e-6)

    model.load_state_dict(with_batchnorm().state_dict())
    assert not torch.allclose(net.margins(box, y), fresh.margins(box, y), atol=1e-3)
    assert_contains(net, box, y, model.eval())


def test_a_training_pass_moves_the_statistics_as_the_module_itself_would():
    model, x = with_batchnorm(), torch.rand(6, 2, 4, 4)
    twin = copy.deepcopy(model)
    net = BoundedNet(model, x).train()
    expected, logits = twin.train()(x), net(x)
    assert torch.allclose(logits, expected, atol=1e-5)
    for name, value in twin.state_dict().items():
        if "num_batches" not in name:
            assert torch.allclose(model.state_dict()[name], value, atol=1e-6), name


def test_bounds_in_train_mode_use_the_clean_batch():
    """The oracle: the same net in eval mode, its statistics set to those of the clean batch."""
    model, clean = with_batchnorm(), torch.rand(6, 2, 4, 4)
    twin, other = copy.deepcopy(model), torch.rand(2, 2, 4, 4)
    for layer in (twin[2], twin[6]):

        def set_statistics(norm, inputs):
            dims = [d for d in range(inputs[0].ndim) if d != 1]
            norm.running_mean.copy_(inputs[0].mean(dims).detach())
            norm.running_var.copy_(inputs[0].var(dims, unbiased=False).detach())

        layer.register_forward_pre_hook(set_statistics)
    with torch.no_grad():
        twin.eval()(clean)
    for layer in (twin[2], twin[6]):
        layer._forward_pre_hooks.clear()

    net, box, y = BoundedNet(model, clean).train(), Box.around(other, 0.02), torch.tensor([2, 0])
    net(clean)
    before = copy.deepcopy(model.state_dict())
    fixed = BoundedNet(twin, clean).eval()
    for method in ("ibp", "crown-ibp", "crown"):
        bound = net.margins(box, y, method)
        assert torch.allclose(bound, fixed.margins(box, y, method), atol=1e-4), method
    assert_contains(net, box, y, twin, ("ibp", "crown-ibp", "crown"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --------------------------------------------------------------------- and left as it was


@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
@pytest.mark.parametrize("normalised", [True, False], ids=["normalised", "plain"])
def test_building_changes_nothing(mode, normalised):
    model = with_batchnorm() if normalised else with_batchnorm()[1:]
    model.train(mode != "eval")
    if mode == "mixed":  # fine-tuning with a frozen BatchNorm layer
        model[-3].eval()
    model[-1].weight.requires_grad_(False)
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)

    def state():
        return (
            [m.training for m in model.modules()],
            [p.requires_grad for p in model.parameters()],
            [float(p.grad.sum()) / p.numel() for p in model.parameters()],
            [value.clone() for value in model.state_dict().values()],
            [len(m._forward_hooks) for m in model.modules()],
        )

    modes, flags, grads, values, hooks = state()
    net = BoundedNet(model, torch.rand(2, 2, 4, 4))
    after = state()
    assert after[0] == modes
    assert (after[1], after[2], after[4]) == (flags, grads, hooks)
    assert all(torch.equal(new, old) for new, old in zip(after[3], values, strict=True))
    assert net.training == model.training


def test_a_frozen_batchnorm_layer_stays_frozen():
    model, x = with_batchnorm().train(), torch.rand(6, 2, 4, 4)
    model[2].eval()
    twin, kept = copy.deepcopy(model), model[2].running_mean.clone()
    net = BoundedNet(model, x)
    assert torch.allclose(net(x), twin(x), atol=1e-5)
    assert torch.equal(model[2].running_mean, kept)
    assert torch.allclose(model[6].running_mean, twin[6].running_mean, atol=1e-6)


def test_evaluating_restores_the_mode_of_every_layer():
    net = BoundedNet(with_batchnorm(), torch.rand(2, 2, 4, 4)).train()
    net.module[2].eval()
    modes = [m.training for m in net.module.modules()]
    with pytest.raises(KeyError), net.evaluating():
        assert not any(m.training for m in net.module.modules())
        raise KeyError
    assert [m.training for m in net.module.modules()] == modes


def test_alpha_crown_leaves_the_graph_of_the_clean_batch_alone():
    """On 0.3 it may be refused in train mode: its own backward passes the batch statistics."""
    model, x = with_batchnorm(), torch.rand(4, 2, 4, 4)
    net, y = BoundedNet(model, x).train(), torch.arange(4) % 3
    logits = net(x)
    with contextlib.suppress(CitrusError):
        net.margins(Box.around(x, 0.1), y, "alpha-crown")
    assert all(p.grad is None for p in model.parameters())
    nn.functional.cross_entropy(logits, y).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_alpha_crown_leaves_gradients_alone():
    model, x = mlp(), torch.rand(3, 4)
    model[0].weight.requires_grad_(False)
    net, box, y = BoundedNet(model, x), Box.around(x, 0.3), torch.tensor([2, 0, 1])
    model[4].weight.grad = torch.ones(3, 8)
    crown = net.margins(box, y, "crown")
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            alpha = net.margins(box, y, "alpha-crown")
        assert not alpha.requires_grad
        assert float((alpha - crown).mean().detach()) > 1e-4
        assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
        grads = [p.grad for p in model.parameters()]
        assert torch.equal(grads.pop(4), torch.ones(3, 8))
        assert grads == [None] * 5
    with torch.no_grad():
        assert not torch.is_grad_enabled()


# ----------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
@pytest.mark.parametrize("seed", [1, 3])
def test_weight_gradients_agree_with_finite_differences(monkeypatch, method, training, seed):
    monkeypatch.setattr(tracing, "MATRIX_MODE_LIMIT", 0)  # patches work in float64
    torch.manual_seed(seed)
    model, x = with_batchnorm().double(), torch.rand(4, 2, 4, 4, dtype=torch.float64)
    net, box, y = BoundedNet(model, x).train(training), Box.around(x, 0.1), torch.arange(4) % 3

    def loss():
        net(x)  # in train mode: the statistics, with gradient
        return (-net.margins(box, y, method)).exp().mean()

    value = loss()
    gradients = torch.autograd.grad(value, net.parameters(), allow_unused=True)
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        direction, step, ends = torch.randn_like(parameter), 1e-6, []
        for sign in (1, -1):
            parameter.data += sign * step * direction
            ends.append(loss().item())
            parameter.data -= sign * step * direction
        numeric = (ends[0] - ends[1]) / (2 * step)
        analytic = 0.0 if gradient is None else float((gradient * direction).sum())
        assert analytic == pytest.approx(numeric, rel=1e-4, abs=1e-6 * value.item())


# ------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    ("misuse", "says"),
    [
        (lambda net, box, y: net.margins(box, y, "crwon"), "crwon"),
        (lambda net, box, y: net.margins(box, y + 1), "1 to 3"),
        (lambda net, box, y: net.margins(box, y - 1), "-1 to 1"),
        (lambda net, box, y: net.margins(box, y.float()), "float32"),
        (lambda net, box, y: net.margins(box, None), "NoneType"),
        (lambda net, box, y: net.margins(box, y.byte()), "uint8"),
        (lambda net, box, y: net.margins(box, y.unsqueeze(1)), r"\(3, 1\)"),
        (lambda net, box, y: net.margins(box, y[:2]), "3 boxes but 2 labels"),
        (lambda net, box, y: net.margins(Box(box.upper, box.lower), y), "lower > upper"),
        (lambda net, box, y: net.margins(Box(box.lower, box.upper * math.nan), y), "NaN"),
        (lambda net, box, y: net.margins(Box(box.lower, box.upper[:2]), y), "shape"),
        (lambda net, box, y: net.margins(Box.around(torch.rand(3, 1, 4), 0.1), y), "shape"),
        (lambda net, box, y: certify(net, box.centre, y[:2], 0.1), "2 labels"),
        (lambda net, box, y: BoundedNet(net.module), "example"),
        (lambda net, box, y: as_bounded_net(net.module), "Sequential"),
    ],
)
def test_misuse_is_named(misuse, says):
    x = torch.rand(3, 4)
    net = BoundedNet(mlp(), x)
    with pytest.raises(InputError, match=says) as caught:
        misuse(net, Box.around(x, 0.1), torch.arange(3))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("softmax", [nn.Softmax(1), nn.LogSoftmax(-1)])
def test_a_softmax_at_the_end_is_taken_off(softmax):
    x = torch.rand(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    logits = with_batchnorm().eval()
    whole = nn.Sequential(*logits, softmax).eval()
    net, plain = BoundedNet(whole, x), BoundedNet(logits, x)
    y = whole(x).argmax(1)
    assert torch.equal(net(x), logits(x))
    proved, expected = certify(net, x, y, 0.001), certify(plain, x, y, 0.001)
    assert torch.equal(proved.certified, expected.certified) and proved.certified.any()
    whole.train()
    assert net.training and copy.deepcopy(net).training
    net.eval()
    assert not whole.training
    whole[-2] = nn.Linear(6, 3)
    with pytest.raises(CitrusError, match="wrap the model again"):
        certify(net, x, y, 0.001)
