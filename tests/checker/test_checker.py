"""Proofs that an evaluation writes are accepted, for all layers, and other files are refused."""

import copy
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from exact import BENT_KINDS, Absolute, random_images, random_net
from layers import AFFINE, LAYERS, network
from networks import deep_net, flushed, images
from proved import check, prove
from torch import nn

from citrus_lirpa import BoundedNet, checker
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.checker.core import Box as CheckedBox
from citrus_lirpa.checker.core import Claims, Ranges
from citrus_lirpa.checker.moves import parts
from citrus_lirpa.errors import ModelError
from citrus_lirpa.formats.onnx import exported, save_onnx
from citrus_lirpa.models import Normalise
from citrus_lirpa.verify import proof_files
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.crown.rounding import intervals
from citrus_lirpa.verify.proof_files import ProofFolder

pytest.importorskip("onnx")

#: Bends of one value, of two maps and of windows: what is charged for a device in all other kinds.
ON_DEVICE = ("prelu", "maximum", "max pooling")
NO_CLAIMS = Claims(np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros((0, 4)))


@pytest.mark.parametrize("arithmetic", ["real", "float32"])
@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
@pytest.mark.parametrize("eps", [0.03, 0.1])
def test_what_is_certified_has_proofs_that_hold(tmp_path, eps, clip, arithmetic):
    torch.manual_seed(1)
    net = deep_net()
    x, y = images(net, 8, wrong=[2])
    found, uap, figures = prove(tmp_path, net, x, y, eps, clip, arithmetic=arithmetic)
    assert (figures.images, figures.groups) == (int(found.certified.sum()), 2)
    for exact in (False, True):
        network = checker.read_network(tmp_path / "model.onnx", exact=exact)
        summary = checker.check_folder(tmp_path, network)
        assert summary.refused == []
        assert (summary.images, summary.groups) == (figures.images, figures.groups)


def test_images_that_are_equal_have_proofs_each(tmp_path):
    """Within a group, and in two; one with another label is another image."""
    torch.manual_seed(1)
    net = deep_net()
    x, y = images(net, 8, wrong=[2])
    x[1], x[5], x[7] = x[2], x[2], x[4]
    y = net(x).argmax(1)
    y[7] = (y[4] + 1) % 3
    found, uap, figures = prove(tmp_path, net, x, y, 0.08)
    certified = found.certified.tolist()
    assert certified[1] and certified[2] and certified[4] and certified[5]
    assert (figures.images, figures.groups) == (sum(certified), 2)
    summary = checker.check_folder(tmp_path, checker.read_network(tmp_path / "model.onnx"))
    assert (summary.images, summary.groups, summary.refused) == (sum(certified), 2, [])
    with np.load(tmp_path / "00000.npz") as arrays:
        made = dict(arrays)
    statement = json.loads(str(made["statement"]))
    statement["certified"].append(7)  # as if its twin with another label proved it
    made["statement"] = np.array(json.dumps(statement))
    summary = check(tmp_path / "claimed", made, tmp_path / "model.onnx")
    assert not certified[7] and len(summary.refused) == 1


def test_images_of_a_set_that_are_equal_break_together():
    classes, refuted = 3, {frozenset([(0, 1), (1, 1)]), frozenset([(1, 2)])}
    assert checker.most_broken([0, 0, 1], [0, 0], classes, refuted) == 3
    assert checker.most_broken([0, 0, 1], [0, 0], classes, refuted | {frozenset([(0, 2)])}) == 2
    assert checker.most_broken([0, 1, 1], [0, 0], classes, refuted | {frozenset([(0, 2)])}) == 2


class Residual(nn.Module):
    """Convolutions with BatchNorm and a bypass, of images 2x6x6."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4)
        self.b, self.pool = nn.Conv2d(4, 4, 3, padding=1), nn.AvgPool2d(3)
        self.end = nn.Linear(4, 3)

    def forward(self, x):
        h = self.norm(self.a(x)).relu()
        h = (self.b(h) + h).relu()
        return self.end(self.pool(h).flatten(1))


@pytest.mark.parametrize("arithmetic", ["real", "float32"])
def test_convolutions_batchnorm_and_bypasses(tmp_path, arithmetic):
    torch.manual_seed(2)
    model = Residual()
    for _ in range(20):  # running statistics that are not 0 and 1
        model(3 * torch.rand(8, 2, 6, 6))
    model.eval()
    x = torch.rand(6, 2, 6, 6)
    y = model(x).argmax(1)
    net = BoundedNet(model, x[:1]).eval()
    found, _, figures = prove(tmp_path, net, x, y, 0.01, size=3, arithmetic=arithmetic)
    assert figures.images == int(found.certified.sum()) > 0
    network = checker.read_network(tmp_path / "model.onnx")
    assert checker.check_folder(tmp_path, network).refused == []
    z = network.values(x[0].double().numpy())
    wanted = model.double().norm(model.a(x[:1].double())).detach().numpy()
    assert np.allclose(z[0].ravel(), wanted.ravel(), atol=1e-12)


@pytest.mark.parametrize("exact", [False, True])
def test_a_proof_of_real_numbers_is_none_of_a_device(tmp_path, exact):
    """The margin of a network that cancels is positive, but by less than float32 rounds."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2)
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[1].bias.fill_(16.0)
        model[3].weight.copy_(torch.tensor([[64.0, -64.0]]))
        model[3].bias.zero_()
        model[5].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[5].bias.copy_(torch.tensor([1e-3 - 16.0, 0.0]))
    x, y = torch.tensor([0.5, 0.5001]).view(2, 1, 1, 1), torch.tensor([0, 0])
    prove(tmp_path / "made", BoundedNet(model.eval(), x).eval(), x, y, 0.25, size=2, method="ibp")
    with np.load(tmp_path / "made" / "00000.npz") as arrays:
        made = dict(arrays)
    said = json.loads(str(made["statement"]))
    assert said["arithmetic"] == "real" and said["certified"] == [0, 1]
    given = tmp_path / "made" / "model.onnx", exact
    assert check(tmp_path / "real", made, *given).refused == []
    for name, problem in (("float32", "a leaf is bounded by -"), ("float16", "its arithmetic is")):
        other = {**made, "statement": np.array(json.dumps({**said, "arithmetic": name}))}
        assert problem in check(tmp_path / name, other, *given).refused[0]


def test_a_device_may_flush_the_scale_of_a_batchnorm(tmp_path):
    model = flushed(1e38)
    x, y = torch.rand(2, 1, 2, 2), torch.tensor([1, 1])
    prove(tmp_path / "made", BoundedNet(model, x).eval(), x, y, 0.01, size=2)
    with np.load(tmp_path / "made" / "00000.npz") as arrays:
        made = dict(arrays)
    said = {**json.loads(str(made["statement"])), "arithmetic": "float32"}
    assert said["certified"] == [0, 1]
    made["statement"] = np.array(json.dumps(said))
    assert check(tmp_path / "float32", made, tmp_path / "made" / "model.onnx").refused


@pytest.mark.parametrize(
    ("kind", "arithmetic"),
    [*((kind, "real") for kind in BENT_KINDS), *((kind, "float32") for kind in ON_DEVICE)],
)
def test_other_piecewise_linear_layers(tmp_path, kind, arithmetic):
    """Every certificate of a small network is proved again, by float64 and by fractions."""
    proved = 0
    for seed in range(3):
        model, shape = random_net(kind, seed)
        x, y = random_images(model, shape, seed, 4)
        net = BoundedNet(model, x).eval()
        clip = (0.0, 1.0) if seed else None
        given = (0.01, 0.05, 0.2)[seed], clip
        found, _, figures = prove(tmp_path, net, x, y, *given, arithmetic=arithmetic)
        assert figures.images == int(found.certified.sum()) and figures.groups == 1
        for exact in (False, True):
            network = checker.read_network(tmp_path / "model.onnx", exact=exact)
            assert checker.check_folder(tmp_path, network).refused == []
        proved += figures.images
    assert proved > 0


@pytest.mark.parametrize("name", [*LAYERS, *AFFINE])
def test_layers_of_images(tmp_path, name):
    """Padding, strides, slices and the like mean the same in the file."""
    layers = [LAYERS[name][0]] if name in LAYERS else [nn.ReLU(), AFFINE[name], nn.ReLU()]
    model, x, y = network(*layers)
    net = BoundedNet(model, x).eval()
    found, _, figures = prove(tmp_path, net, x, y, 0.02)
    assert figures.images == int(found.certified.sum()) > 0
    network_read = checker.read_network(tmp_path / "model.onnx")
    assert checker.check_folder(tmp_path, network_read).refused == []


@pytest.mark.parametrize(
    ("axis", "sizes", "count", "widths"),
    [
        (1, [1, 5], 2, [1, 5]),
        (-2, None, 3, [2, 2, 2]),
        (1, None, 4, []),  # three parts of two leave nothing
        (1, [3, 2], 2, []),
        (1, [-1, 7], 2, []),
        (1, [3, 3], 3, []),
        (0, None, 1, []),
    ],
)
def test_parts_of_a_value_fit_or_are_not_read(axis, sizes, count, widths):
    index = np.arange(12).reshape(1, 6, 2)
    found = parts(index, {"axis": [axis]}, sizes, count)
    assert [part.shape[1] for part in found] == widths
    assert not found or np.array_equal(np.concatenate(found, 1), index)


def test_layers_behind_each_other(tmp_path):
    """Claims are rounded to float32; intervals that follow from those of others are not."""
    proved = 0
    for seed in range(3):
        layers = nn.LeakyReLU(0.1), nn.MaxPool2d(3, 2, 1), nn.Hardtanh(-0.2, 0.3), Absolute()
        model, x, y = network(*layers, seed=seed)
        found, _, figures = prove(tmp_path, BoundedNet(model, x).eval(), x, y, 0.03 + 0.02 * seed)
        assert figures.images == int(found.certified.sum())
        summary = checker.check_folder(tmp_path, checker.read_network(tmp_path / "model.onnx"))
        assert summary.refused == []
        proved += figures.images
    assert proved > 0


def test_intervals_of_the_operation_itself_are_checked(tmp_path):
    """Without them the maximum of two values that hardly differ would be twice as wide."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), Absolute(), nn.Linear(8, 2)).eval()
    x = torch.rand(1, 1, 2, 2)
    save_onnx(model, (1, 2, 2), tmp_path / "model.onnx")
    network = checker.read_network(tmp_path / "model.onnx")
    box = CheckedBox(network, x[0].double().numpy(), 0.1, None)
    ranges = Ranges(network, box, NO_CLAIMS)
    (name,) = (node.result for node in network.nodes if node.hull)
    z = model[1](x.flatten(1)).detach().double().numpy()[0]
    radius = 0.1 * model[1].weight.abs().sum(1).detach().double().numpy()
    low = np.maximum(np.maximum(z - radius, -z - radius), 0)
    high = np.maximum(abs(z - radius), abs(z + radius))
    assert np.allclose(ranges.lower[name].T, low, atol=1e-6)
    assert np.allclose(ranges.upper[name].T, high, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 32])
def test_intervals_that_are_claimed_contain_those_of_the_checker(tmp_path, channels):
    """Also where no float32 lies between the two."""
    torch.manual_seed(channels)
    model = nn.Sequential(
        Normalise((0.3,), (0.2,)), nn.Conv2d(1, channels, 3), nn.ReLU(), nn.Conv2d(channels, 4, 2),
        nn.ReLU(), nn.Flatten(), nn.Linear(100, 3),
    ).eval()  # fmt: skip
    x = torch.rand(8, 1, 8, 8)
    engine = DualEngine(BoundedNet(model, x[:2]).eval(), Ball(0.02))
    claimed, _ = intervals(engine.exact_segments, x.double(), engine.ball)
    proto = exported(model, (1, 8, 8), folded=False)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    network = checker.read_network(tmp_path / "model.onnx")
    before = [node.sources[0] for node in network.nodes if node.affine is None]
    for i, image in enumerate(x.double().numpy()):
        found = Ranges(network, CheckedBox(network, image, 0.02, None), NO_CLAIMS)
        for value, (lower, upper) in zip(before, claimed, strict=True):
            assert (lower[i].numpy().reshape(-1, 1) <= found.lower[value]).all()
            assert (upper[i].numpy().reshape(-1, 1) >= found.upper[value]).all()


@pytest.mark.parametrize("off", [0.1, 0.0003])
def test_a_file_that_computes_other_logits_is_not_written_for(tmp_path, monkeypatch, off):
    net = deep_net()
    x, _ = images(net, 1)
    other = copy.deepcopy(net.module)
    [*_, last] = [layer for layer in other.modules() if isinstance(layer, nn.Linear)]
    last.bias.data[0] += off
    proto = exported(other, x.shape[1:], folded=False)
    monkeypatch.setattr(proof_files.onnx, "exported", lambda *given, **options: proto)
    with pytest.raises(ModelError, match="computes something else"):
        ProofFolder(tmp_path, net, Ball(0.1))


def test_another_network_is_refused(tmp_path, proofs):
    folder, _ = proofs
    torch.manual_seed(5)
    save_onnx(deep_net().module, (1, 4, 4), tmp_path / "other.onnx")
    summary = checker.check_folder(folder, checker.read_network(tmp_path / "other.onnx"))
    assert summary.images == 0 and "another network" in summary.refused[0]


@pytest.mark.parametrize("size", [0, 10, 2000])
def test_a_damaged_file_is_refused(tmp_path, proofs, size):
    folder, _ = proofs
    (tmp_path / "a.npz").write_bytes((folder / "00000.npz").read_bytes()[:size])
    summary = checker.check_folder(tmp_path, checker.read_network(folder / "model.onnx"))
    assert summary.images == 0 and len(summary.refused) == 1


def test_a_folder_without_proofs_proves_nothing(tmp_path, proofs):
    network = checker.read_network(proofs[0] / "model.onnx")
    assert checker.check_folder(tmp_path, network).refused


def test_what_is_no_onnx_file_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no network")
    with pytest.raises(checker.Refused, match="cannot be read"):
        checker.read_network(tmp_path / "x.onnx")


def test_it_runs_by_itself_without_torch(proofs):
    folder, _ = proofs
    model = folder / "model.onnx"
    code = (
        "import runpy, sys; sys.modules['torch'] = None\n"
        f"sys.argv = ['checker', {str(folder)!r}, {str(model)!r}]\n"
        "runpy.run_module('citrus_lirpa.checker', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "0 refusals" in done.stdout, done.stderr


@pytest.mark.parametrize("seed", range(20))
def test_most_broken_agrees_with_brute_force(seed):
    draw = np.random.default_rng(seed)
    labels, classes, members = draw.integers(0, 3, 4).tolist(), 3, range(4)
    pairs = [(i, c) for i in members for c in range(classes) if c != labels[i]]
    refuted = set()
    for _ in range(6):
        chosen = draw.permutation(len(pairs))[: draw.integers(1, 4)]
        refuted.add(frozenset(pairs[k] for k in chosen))
    refuted = {t for t in refuted if len({i for i, _ in t}) == len(t)}
    most = 0
    for choice in itertools.product(*([None, *(c for i, c in pairs if i == m)] for m in members)):
        taken = {(i, c) for i, c in enumerate(choice) if c is not None}
        if not any(t <= taken for t in refuted):
            most = max(most, len(taken))
    assert checker.most_broken(members, labels, classes, refuted) == most
