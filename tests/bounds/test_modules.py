"""Modules as people write them: each is bounded soundly, or refused in one line."""

import collections
import copy
import importlib.util
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from layers import Function
from torch import nn

from citrus_lirpa.bounds import lirpa
from citrus_lirpa.bounds.box import Box
from citrus_lirpa.bounds.net import BoundedNet, as_bounded_net
from citrus_lirpa.errors import CitrusError, ModelError
from citrus_lirpa.formats.onnx import load_onnx, save_onnx
from citrus_lirpa.losses import Citrus, Ibp
from citrus_lirpa.verify import certify

X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6)
FLATTENS = {
    "flatten(1)": lambda x: x.flatten(1),
    "torch.flatten(x, 1)": lambda x: torch.flatten(x, 1),
    "torch.flatten(x, start_dim=1)": lambda x: torch.flatten(x, start_dim=1),
    "view(x.size(0), -1)": lambda x: x.view(x.size(0), -1),
    "view(x.size()[0], -1)": lambda x: x.view(x.size()[0], -1),
    "view(x.shape[0], -1)": lambda x: x.view(x.shape[0], -1),
    "reshape(x.shape[0], -1)": lambda x: x.reshape(x.shape[0], -1),
    "reshape(len(x), -1)": lambda x: x.reshape(len(x), -1),
    "torch.reshape": lambda x: torch.reshape(x, (x.size(0), -1)),
    "view(-1, 64)": lambda x: x.view(-1, 64),
    "reshape(-1, 4 * 4 * 4)": lambda x: x.reshape(-1, 4 * 4 * 4),
    "view(-1, features)": lambda x: x.view(-1, math.prod(x.size()[1:])),
    "all sizes": lambda x: x.view(x.size(0), x.size(1) * x.size(2) * x.size(3)),
    "flatten(-3)": lambda x: x.flatten(-3),
    "flatten(1, -1)": lambda x: x.flatten(1, -1),
    "mean((2, 3))": lambda x: x.mean((2, 3)),
    "pool, view": lambda x: F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1),
    "avg_pool2d(x, x.size(3))": lambda x: F.avg_pool2d(x, x.size(3)).view(x.size(0), -1),
    "reshape(x.size(0), 64)": lambda x: x.reshape(x.size(0), 64),
}


class Flattening(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, 2, 1)
        self.flatten = FLATTENS[name]
        features = self.flatten(torch.zeros(1, 4, 4, 4)).shape[1]
        self.linear = nn.Linear(features, 10)

    def forward(self, x):
        return self.linear(self.flatten(F.relu(self.convolution(x))))


def mlp(*, bias=True, norm=lambda layer: layer):
    layers = nn.Linear(64, 8, bias=bias), nn.Linear(8, 8), nn.Linear(8, 10, bias=bias)
    first, second, last = map(norm, layers)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), last)


def own_module(model):
    with lirpa.parsing():  # the tracer warns of len(x)
        return lirpa.load().BoundedModule(model, X[:2])


@pytest.mark.parametrize("own", [False, True], ids=["BoundedNet", "BoundedModule"])
@pytest.mark.parametrize("name", FLATTENS)
def test_every_way_of_flattening_is_trained_and_certified(name, own):
    torch.manual_seed(0)
    model = Flattening(name)
    net = as_bounded_net(own_module(model)) if own else BoundedNet(model, X)
    Citrus(0.5)(net.train(), X, Y, 0.02).backward()
    assert model.convolution.weight.grad.abs().max() > 0
    certificates = certify(net.eval(), X, model(X).argmax(1), 1e-4)
    assert certificates.certified.all()


def test_layers_without_bias_are_bounded_as_with_a_bias_of_zeros():
    torch.manual_seed(0)
    model, same = mlp(bias=False), mlp()
    for p in same.parameters():
        nn.init.zeros_(p)
    same.load_state_dict(model.state_dict(), strict=False)
    losses = [Citrus(0.5, attack=torch_zeros)(BoundedNet(m, X), X, Y, 0.02) for m in (model, same)]
    torch.testing.assert_close(losses[0].margins, losses[1].margins)
    nets = [BoundedNet(m, X).eval() for m in (model, same)]
    for method in ("crown-ibp", "crown", "alpha-crown"):
        bounds = [net.margins(losses[0].box.rows(slice(0, 6)), Y, method) for net in nets]
        torch.testing.assert_close(*bounds)


def torch_zeros(net, x, y, eps):
    return torch.zeros_like(x)


WRAPPERS = {
    "DataParallel": lambda m: BoundedNet(nn.DataParallel(m), X),
    "torch.compile": lambda m: BoundedNet(torch.compile(m), X),
    "BoundDataParallel": lambda m: nn.DataParallel(own_module(m)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_taken_off(wrapper):
    torch.manual_seed(0)
    model = mlp()
    expected = Ibp()(BoundedNet(model, X), X, Y, 0.02)
    loss = Ibp()(WRAPPERS[wrapper](model), X, Y, 0.02)
    torch.testing.assert_close(loss.detach(), expected.detach())
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_model_compiled_in_place_is_bounded_and_stays_compiled():
    model, calls = Flattening("flatten(1)"), []
    logits = model(X)

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    model.compile(backend=backend)
    net = BoundedNet(model, X)
    assert torch.equal(net(X), logits) and calls
    assert Citrus(0.5)(net.train(), X, Y, 0.02).isfinite()


class Inner(nn.Module):
    """A part with outputs beside the one that counts, as GoogLeNet and Transformers have."""

    def __init__(self, made):
        super().__init__()
        self.linear, self.made = nn.Linear(64, 8), made

    def forward(self, x):
        features = F.relu(self.linear(x.flatten(1)))
        return self.made(features, features.sum())


class Outer(nn.Module):
    def __init__(self, made, taken):
        super().__init__()
        self.inner, self.head, self.taken = Inner(made), nn.Linear(8, 10), taken

    def forward(self, x):
        return self.head(self.taken(self.inner(x)))


class Auxiliary(nn.Module):
    """With a further output in train mode, as Inception has it, whose weights 0.3 left out."""

    def __init__(self):
        super().__init__()
        self.network, self.AuxLogits = mlp(), nn.Linear(64, 10)

    def forward(self, x):
        logits = self.network(x)
        return (logits, self.AuxLogits(x.flatten(1))) if self.training else logits


def test_auxiliary_classifiers_of_train_mode_wrap():
    model = Auxiliary().eval()
    y = model(X).argmax(1)
    assert certify(BoundedNet(model, X), X, y, 1e-4).certified.all()
    with pytest.raises(ModelError, match="returns a tuple; expected one .* in train mode too"):
        Ibp()(BoundedNet(model, X).train(), X, y, 0.02)


Named = collections.namedtuple("Named", ["features", "auxiliary"])
PARTS = {
    "tuple": (lambda *outputs: outputs, lambda made: made[0]),
    "named tuple": (Named, lambda made: made.features),
    "dict": (lambda f, a: {"features": f, "auxiliary": a}, lambda made: made["features"]),
    "nested": (lambda f, a: {"features": (f, [a])}, lambda made: made["features"][0]),
}


@pytest.mark.parametrize("kind", PARTS)
def test_parts_with_several_outputs_are_bounded(kind):
    torch.manual_seed(0)
    model = Outer(*PARTS[kind])
    net = BoundedNet(model, X)
    Citrus(0.5)(net.train(), X, Y, 0.02).backward()
    assert model.inner.linear.weight.grad.any()
    y = model(X).argmax(1)
    plain = nn.Sequential(nn.Flatten(), model.inner.linear, nn.ReLU(), model.head)
    found, wanted = (certify(n.eval(), X, y, 0.01) for n in (net, BoundedNet(plain, X)))
    assert torch.equal(found.certified, wanted.certified) and found.certified.any()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_networks_of_their_own(copied):
    net = BoundedNet(mlp(), X)
    other = copied(net)
    assert torch.equal(Ibp()(other, X, Y, 0.02).margins, Ibp()(net, X, Y, 0.02).margins)
    with torch.no_grad():
        other.parameters()[0].zero_()
    assert net.parameters()[0].any()


class Returning(nn.Module):
    def __init__(self, made, in_training=False):
        super().__init__()
        self.network, self.made, self.in_training = mlp(), made, in_training

    def forward(self, x):
        logits = self.network(x)
        return logits if self.in_training and not self.training else self.made(logits)


def fused():
    wrapper = __import__("auto_LiRPA").CrossEntropyWrapper(mlp())
    options = {"loss_fusion": True}
    return lirpa.load().BoundedModule(wrapper, (X[:2], Y[:2]), bound_opts=options)


def distributed():
    """One without a process group."""
    wrapper = DDP.__new__(DDP)
    nn.Module.__init__(wrapper)
    return wrapper


def on_two_devices(model):
    parallel = nn.DataParallel(model)
    parallel.device_ids = [0, 1]
    return parallel


DDP = nn.parallel.DistributedDataParallel
NORM = nn.utils.parametrizations


class Ending(nn.Module):
    """A network whose forward ends in a function."""

    def __init__(self, function):
        super().__init__()
        self.logits, self.function = mlp(), function

    def forward(self, x):
        return self.function(self.logits(x))


class Recurrent(nn.Module):
    """A recurrent layer over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.layer = nn.RNN(8, 5, batch_first=True)

    def forward(self, x):
        return self.layer(x.squeeze(1))[0].flatten(1)


class Masked(nn.Module):
    """A network of two inputs."""

    def forward(self, x, mask):
        return x.flatten(1) * mask


def exported():
    return torch.export.export(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval(), (X,))


HEAD = nn.Flatten()
REFUSED = {
    "two inputs": (
        lambda: BoundedNet(Masked(), X),
        r"cannot be run on a tensor \(1, 1, 8, 8\) .* argument: 'mask'; .* take the images alone",
    ),
    "weights of another type": (
        lambda: BoundedNet(nn.Sequential(HEAD, nn.Linear(64, 3)).double(), X),
        "of torch.float32 on cpu; its weights are of torch.float64 on cpu: .*; bring both to one",
    ),
    "weights on meta": (
        lambda: BoundedNet(nn.Sequential(HEAD, nn.Linear(64, 3, device="meta")), X),
        "its weights are of torch.float32 on meta: .*; bring both to one",
    ),
    "TorchScript": (
        lambda: BoundedNet(torch.jit.script(nn.Sequential(HEAD, nn.Linear(64, 3))), X),
        "the model is TorchScript, which cannot be bounded; pass what it was made from",
    ),
    "quantised": (
        lambda: BoundedNet(nn.Sequential(HEAD, torch.ao.nn.quantized.dynamic.Linear(64, 3)), X),
        "layer '1' is quantised, which cannot be bounded; pass what it was made from",
    ),
    "exported": (
        lambda: BoundedNet(exported().module(), X),
        "cannot be set to eval mode: .*; pass the module itself, not a program that torch.export",
    ),
    "exported program": (lambda: BoundedNet(exported(), X), "of type ExportedProgram; expected a"),
    "tuple": (lambda: BoundedNet(Returning(lambda o: (o, o)), X), "returns a tuple; expected one"),
    "dict": (lambda: BoundedNet(Returning(lambda o: {"a": o}), X), "returns a dict; expected one"),
    "auxiliary output in train mode": (
        lambda: Ibp()(BoundedNet(Returning(lambda o: (o, o), True), X).train(), X, Y, 0.02),
        "returns a tuple; expected one",
    ),
    "unsupported operation": (
        lambda: BoundedNet(nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Hardshrink()), X),
        r"auto_LiRPA 0.* cannot bound .* \(layer '2', Hardshrink\)",
    ),
    "transposed convolution": (
        lambda: BoundedNet(nn.Sequential(nn.ConvTranspose2d(1, 2, 3, dilation=2), HEAD), X),
        r"cannot bound 'ConvTranspose' \(layer '0', ConvTranspose2d\); use Conv2d",
    ),
    "upsampling": (
        lambda: BoundedNet(
            nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReLU(), HEAD), X
        ),
        r"cannot bound 'Resize' \(layer '0', Upsample\); use Conv2d",
    ),
    "local response": (
        lambda: BoundedNet(nn.Sequential(nn.LocalResponseNorm(3), HEAD), X),
        r"cannot bound 'AveragePool' \(layer '0', LocalResponseNorm\); use convolutions and pool",
    ),
    "uneven averages": (
        lambda: BoundedNet(nn.Sequential(nn.AdaptiveAvgPool2d(3), HEAD), X),
        r"'torch.adaptive_avg_pool2d' \(layer '0', AdaptiveAvgPool2d\); use an output size that di",
    ),
    "uneven maxima": (
        lambda: BoundedNet(nn.Sequential(nn.AdaptiveMaxPool2d(3), HEAD), X),
        "'torch.adaptive_max_pool2d'; use an output size that divides",
    ),
    "pooling undone": (
        lambda: BoundedNet(
            Function(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)), X
        ),
        r"cannot bound 'MaxPool' \(test_modules.py:\d+\); use convolutions and pooling",
    ),
    "patches": (
        lambda: BoundedNet(nn.Sequential(nn.Unfold(2), HEAD), X),
        r"cannot bound 'Gather' \(layer '0', Unfold\): ValueError: .*; use ReLU",
    ),
    "recurrent layer": (
        lambda: BoundedNet(Recurrent(), X),
        r"cannot bound 'RNN' \(layer 'layer', RNN, test_modules.py:\d+\); use ReLU",
    ),
    "attention": (
        lambda: BoundedNet(Function(lambda x: F.scaled_dot_product_attention(x, x, x)), X),
        r"cannot bound '.*' \(test_modules.py:\d+\).*; use ReLU",
    ),
    "BatchNorm without running statistics": (
        lambda: BoundedNet(nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), HEAD), X),
        "layer '0' has track_running_stats=False, .* make it with track_running_stats=True",
    ),
    "BatchNorm with averages of all batches": (
        lambda: BoundedNet(nn.Sequential(nn.BatchNorm2d(1, momentum=None), HEAD), X),
        "layer '0' has momentum=None, .* set a number",
    ),
    "log_softmax at the end": (
        lambda: BoundedNet(Ending(lambda z: z.log_softmax(1)), X),
        r"'LogSoftmax' .*; return the logits before it",
    ),
    "padding by reflection": (
        lambda: BoundedNet(
            nn.Sequential(nn.ReflectionPad2d(1), nn.Flatten(), nn.Linear(100, 2)), X
        ),
        r"padding by reflection \(layer '0', ReflectionPad2d\); pad by zero",
    ),
    "padding by replication in a BoundedModule": (
        lambda: as_bounded_net(own_module(nn.Sequential(nn.ReplicationPad2d(1), nn.Flatten()))),
        "padding by replication; pad by zero",
    ),
    "GroupNorm": (
        lambda: BoundedNet(nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)), X),
        "layer '1' is a GroupNorm, .* use BatchNorm",
    ),
    "uneven same padding": (
        lambda: BoundedNet(nn.Sequential(nn.Conv2d(1, 4, 2, padding="same"), nn.Flatten()), X),
        "layer '0' has padding=\"same\" and a kernel .* use an odd kernel",
    ),
    "a divisor of average pooling": (
        lambda: BoundedNet(nn.Sequential(nn.AvgPool2d(2, divisor_override=3), nn.Flatten()), X),
        "layer '0' is an AvgPool2d with divisor_override=3, .* scale the result",
    ),
    "a divisor in a function": (
        lambda: BoundedNet(Function(lambda x: F.avg_pool2d(x, 2, divisor_override=3)), X),
        r"forward calls avg_pool2d at .*test_modules.py:\d+ .* with divisor_override=3, .* scale",
    ),
    "DistributedDataParallel": (lambda: BoundedNet(DDP.__new__(DDP), X), "pass model.module"),
    "DistributedDataParallel inside": (
        lambda: BoundedNet(nn.Sequential(nn.Identity(), distributed()), X),
        "layer '1' is a DistributedDataParallel, .* put its .module there",
    ),
    "DataParallel of several GPUs inside": (
        lambda: BoundedNet(nn.Sequential(nn.Identity(), on_two_devices(mlp())), X),
        "layer '1' is a DataParallel, .* put its .module there",
    ),
    "torch.compile inside": (
        lambda: BoundedNet(nn.Sequential(nn.Identity(), torch.compile(mlp())), X),
        "layer '1' is made by torch.compile, .* put its ._orig_mod there",
    ),
    "a wrapped model without bounds": (
        lambda: Ibp()(nn.DataParallel(mlp()), X, Y, 0.02),
        r"got Sequential; wrap the model first: BoundedNet\(",
    ),
    "named tuple": (
        lambda: BoundedNet(Returning(lambda o: Named(o, o)), X),
        "returns a Named; expected one",
    ),
    "loss under inference mode": (
        lambda: torch.inference_mode()(lambda: Ibp()(BoundedNet(mlp(), X), X, Y, 0.02))(),
        "a training loss differentiates; leave torch.inference_mode.., or use torch.no_grad",
    ),
    "loss fusion": (lambda: Ibp()(fused(), X, Y, 0.02), "pass the model inside"),
    "copy of a BoundedModule": (
        lambda: copy.deepcopy(as_bounded_net(own_module(mlp()))),
        "copy or save your own module",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_bounded_is_refused_in_one_line(case, capfd):
    make, message = REFUSED[case]
    with pytest.raises(CitrusError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value) and capfd.readouterr() == ("", "")


def test_a_function_softmax_at_the_end_is_bounded_by_07_and_refused_on_03():
    model = Ending(lambda z: z.softmax(1)).eval()
    net, y = BoundedNet(model, X), model(X).argmax(1)
    if lirpa.load().legacy:
        with pytest.raises(ModelError, match="of a softmax at the end, return the logits before"):
            certify(net, X, y, 1e-4)
    else:
        assert certify(net, X, y, 1e-4).certified.any()


def test_conv1d_is_refused_or_certifies_nothing():
    model = nn.Sequential(nn.Conv1d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 10))
    if lirpa.load().legacy:
        with pytest.raises(CitrusError, match="Conv1d, which auto_LiRPA 0.3 cannot bound"):
            BoundedNet(model, X[:, 0])
    else:
        with pytest.warns(UserWarning, match="certify nothing.*Conv1d.*use Conv2d"):
            assert Ibp()(BoundedNet(model, X[:, 0]), X[:, 0], Y, 0.02).isfinite()


def test_dropout_beside_batchnorm_of_single_values_wraps():
    layers = nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout()
    assert BoundedNet(nn.Sequential(*layers, nn.Linear(4, 10)), X).relus == 1


def test_same_padding_is_bounded_and_stays_the_users():
    model = nn.Sequential(
        nn.Conv2d(1, 2, (3, 5), padding="same", dilation=(2, 1)), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 10),
    ).eval()  # fmt: skip
    found = certify(BoundedNet(model, X), X, model(X).argmax(1), 1e-4)
    assert found.certified.sum() >= 5 and model[0].padding == "same"


PADDINGS = {
    "F.pad": lambda x: F.pad(x, (1, 1, 1, 1)),
    "value=0": lambda x: F.pad(x, (1, 1, 1, 1), value=0),
    "circular": lambda x: F.pad(x, (1, 1, 1, 1), "circular"),
    "mirrored": lambda x: torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2),
}


class Padding(nn.Module):
    def __init__(self, pad):
        super().__init__()
        self.pad, self.last = pad, nn.Linear(pad(X).flatten(1).shape[1], 10)

    def forward(self, x):
        return self.last(self.pad(x).relu().flatten(1))


@pytest.mark.parametrize("name", PADDINGS)
def test_paddings_and_parts_of_the_input_are_bounded_exactly(name):
    """auto_LiRPA fails on the first, and 0.7 on the last two, without repairs."""
    model = Padding(PADDINGS[name]).eval()
    net, y = BoundedNet(model, X, bounds="auto-lirpa"), torch.zeros(6, dtype=torch.long)
    share = torch.rand(X.shape, generator=torch.Generator().manual_seed(1)) + 0.5
    bound = net.margins(Box.around(X + 1, 0.5, None), y, "crown")  # affine there
    point = (X + share).requires_grad_()
    for i in range(9):
        logits = model(point)
        (g,) = torch.autograd.grad((logits[:, 0] - logits[:, i + 1]).sum(), point)
        worst = model(X + 1 - 0.5 * g.sign())
        torch.testing.assert_close(bound[:, i], worst[:, 0] - worst[:, i + 1])


@pytest.mark.parametrize("limit", [0, 10**6], ids=["patches", "matrices"])
def test_pooling_behind_tanh_is_bounded_by_crown(limit, monkeypatch):
    """auto_LiRPA 0.3 fails there without a repair."""
    monkeypatch.setattr("citrus_lirpa.bounds.tracing.MATRIX_MODE_LIMIT", limit)
    layers = nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(2, 3, 3)
    model = nn.Sequential(*layers, nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3, 10))
    net, y = BoundedNet(model.eval(), X), model(X).argmax(1)
    bound = net.margins(Box.around(X, 0.05, None), y, "crown")
    points = X + 0.05 * torch.empty(300, *X.shape).uniform_(-1, 1).sign()
    logits = model(points.flatten(0, 1)).view(300, 6, 10)
    margins = logits.gather(2, y.expand(300, 6).unsqueeze(2)) - logits
    others = torch.ones(6, 10, dtype=torch.bool).scatter(1, y[:, None], False)
    assert (bound <= margins.amin(0)[others].view(6, 9) + 1e-5).all()


@pytest.mark.parametrize("norm", [NORM.weight_norm, NORM.spectral_norm])
def test_layers_under_norms_are_certified_by_their_weights_in_eval_mode(norm, tmp_path):
    torch.manual_seed(0)
    model = mlp(norm=norm)
    model(X)  # spectral norm moves in train mode
    before = copy.deepcopy(model.state_dict())
    net = BoundedNet(model, X)
    torch.testing.assert_close(model.state_dict(), before)
    plain = mlp().eval()  # a deep copy without norms would take them off the model too
    with torch.no_grad():
        for mine, layer in zip(plain, model.eval(), strict=True):
            if isinstance(mine, nn.Linear):
                mine.weight.copy_(layer.weight)
                mine.bias.copy_(layer.bias)
    model.train()
    y = plain(X).argmax(1)
    found = certify(net, X, y, 0.01, method="bab")  # in train mode, which is restored
    wanted = certify(BoundedNet(plain, X), X, y, 0.01, method="bab")
    assert net.training and torch.equal(found.certified, wanted.certified)
    assert found.certified.any() and not found.unsupported
    if importlib.util.find_spec("onnx"):
        save_onnx(model, X.shape[1:], tmp_path / "net.onnx")
        torch.testing.assert_close(load_onnx(tmp_path / "net.onnx")[0](X), plain(X))
    with torch.no_grad():
        model.get_submodule("1").bias.add_(1)  # shared, as everything else
    assert torch.allclose(net.eval()(X), net.bounded(X))
    with torch.no_grad():
        model.get_submodule("1").weight = 2 * model.get_submodule("1").weight + 0.1
    with pytest.raises(ModelError, match="layer '1' has changed since .*wrap the model again"):
        certify(net, X, y, 0.01)
    with pytest.raises(ModelError, match=r"eval mode alone; to train by bounds, call .*remove_"):
        Ibp()(BoundedNet(model, X).train(), X, y, 0.01)


def test_a_lazy_layer_gets_its_shape_from_the_example():
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3)).eval()
    net = BoundedNet(model, X)
    assert model[1].in_features == 64 and net.classes == 3
    assert certify(net, X, model(X).argmax(1), 1e-6).certified.all()
