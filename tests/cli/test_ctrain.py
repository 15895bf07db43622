"""``--model ctrain:ARCHITECTURE``: networks of the installed CTRAIN, and where there are none."""

import sys
from pathlib import Path

import pytest
import torch
from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
from command_line import run, said

from citrus_lirpa import data, imports
from citrus_lirpa.bounds import BoundedNet
from citrus_lirpa.bounds.box import Box
from citrus_lirpa.runs.networks import load_network

#: Architectures, as CTRAIN and the manifest of its fronts call them, and their arguments there.
NETWORKS = {
    "CNN7_Shi": ("CNN7_Shi", "mnist", {}),
    "narrow_cnn7": ("CNN7_Shi", "cifar10", {"width": 32}),
    "cnn3": ("CNN3_Mao", "cifar10", {}),
    "cnn5": ("CNN5_Mao", "mnist", {}),
    "GowalConvSmall": ("GowalConvSmall", "cifar10", {"dataset": "cifar10"}),
    "GowalConvMed": ("GowalConvMed", "mnist", {}),
}
#: What its loaders normalise by.
PIXELS = {"mnist": ([0.1307], [0.3081]),
          "cifar10": ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])}  # fmt: skip
EPS = 0.01


pytestmark = pytest.mark.usefixtures("here")


def published(name: str):
    """A network of the package with random weights and statistics, and a checkpoint of it."""
    definitions = pytest.importorskip("CTRAIN.model_definitions", reason="CTRAIN is not installed")
    kind, dataset, options = NETWORKS[name]
    spec = data.DATASETS[dataset]
    torch.manual_seed(0)
    model = getattr(definitions, kind)(in_shape=spec.shape, **options)
    for layer in model.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.running_mean.uniform_(-0.3, 0.3)
            layer.running_var.uniform_(0.5, 2.0)
    bounded = BoundedModule(model.eval(), torch.zeros(1, *spec.shape))
    torch.save(bounded.state_dict(), "front.pt")  # CTRAIN saves the weights of a BoundedModule
    return model, bounded, spec


def numbered(model) -> dict[str, torch.Tensor]:
    """The weights as a BoundedModule of auto_LiRPA 0.7 calls them, in no order."""
    parameters = dict(model.named_parameters())
    entries = enumerate(model.state_dict().items(), start=1)
    return {
        f"/{number}.{'param' if name in parameters else 'buffer'}": value
        for number, (name, value) in reversed(list(entries))
        if not name.endswith("num_batches_tracked")
    }


def loaded(name: str, **own):
    dataset = NETWORKS[name][1]
    return load_network(Path("front.pt"), dataset, EPS, {"source": f"ctrain:{name}", **own})


@pytest.mark.parametrize("name", NETWORKS)
def test_its_networks_have_their_logits_and_bounds(name):
    model, bounded, spec = published(name)
    imports.permit_code(f"ctrain:{name}")
    network = loaded(name)
    x, y = torch.rand(4, *spec.shape), torch.arange(4)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in PIXELS[spec.name])
    z = (x - mean) / std
    torch.testing.assert_close(network.model(x), model(z), rtol=1e-4, atol=1e-5)

    net = BoundedNet(network.model, x[:2]).eval()
    low, high = ((x - EPS) - mean) / std, ((x + EPS) - mean) / std
    ball = BoundedTensor(z, PerturbationLpNorm(x_L=low, x_U=high))
    wrong = torch.tensor([[c for c in range(10) if c != label] for label in y])
    one = torch.eye(10)
    rows = one[y].unsqueeze(1) - one[wrong]
    for method, theirs in (("ibp", "IBP"), ("crown-ibp", "CROWN-IBP")):
        expected = bounded.compute_bounds(x=(ball,), C=rows, method=theirs, bound_upper=False)[0]
        found = net.margins(Box.around(x, EPS, None), y, method)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_checkpoint_of_a_training_and_other_means():
    model, bounded, spec = published("cnn3")
    imports.permit_code("ctrain:cnn3")
    state = {"epoch": 3, "model_state_dict": bounded.state_dict(), "loss": 0.5}
    torch.save({**state, "optimizer_state_dict": torch.optim.Adam(model.parameters()).state_dict()},
               "front.pt")  # fmt: skip
    x = torch.rand(2, *spec.shape)
    plain = loaded("cnn3", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    torch.testing.assert_close(plain.model(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["CNN7_Shi", "GowalConvMed"])
def test_weights_numbered_as_nodes(name):
    model, _, spec = published(name)
    torch.save(numbered(model), "front.pt")
    imports.permit_code(f"ctrain:{name}")
    found = loaded(name).model[-1]
    assert all(torch.equal(found.state_dict()[k], v) for k, v in model.state_dict().items())


def test_nodes_of_another_network_are_one_line():
    model, _, _ = published("cnn5")
    for state in (numbered(model), dict(list(numbered(model).items())[1:])):
        torch.save(state, "front.pt")
        status, output = run("eval", "front.pt", "--model", "ctrain:cnn3", "--data", "cifar10",
                             "--eps", "0.1")  # fmt: skip
        assert "front.pt does not fit the network: it lacks" in said(status, output, 2)


def test_a_front_is_judged_by_a_command():
    published("cnn3")
    words = ("eval", "--weights", "front.pt", "--model", "ctrain:cnn3", "--data", "cifar10",
             "--eps", "2/255", "--quiet", "--data-dir", "nowhere")  # fmt: skip
    line = said(*run(*words), 1)
    assert "cifar10" in line and "--data-dir" in line


BAD = [
    ("ctrain:CNN8", "unknown architecture of CTRAIN 'CNN8'"),
    ("ctrain:nn", "unknown architecture of CTRAIN 'nn'"),
    ("ctrain:", "names no code; expected FILE.py:NAME, MODULE:NAME or ctrain:ARCHITECTURE"),
    ("ctrain:cnn5", "front.pt does not fit the network: it lacks"),
]


@pytest.mark.parametrize(("source", "words"), BAD)
def test_what_cannot_be_used_is_one_line(source, words):
    published("cnn3")
    status, output = run("eval", "front.pt", "--model", source, "--data", "cifar10", "--eps", "0.1")
    assert words in said(status, output, 2)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "CTRAIN.model_definitions", None)
    torch.save({"weight": torch.zeros(2, 2)}, "front.pt")
    line = said(*run("eval", "front.pt", "--model", "ctrain:cnn7", "--data", "mnist",
                     "--eps", "0.1"), 1)  # fmt: skip
    assert "CTRAIN.model_definitions cannot be imported" in line
    assert line.rstrip().endswith("pip install --no-deps CTRAIN")
