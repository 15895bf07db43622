"""What auto_LiRPA's bounds may prove: the table, the search behind it, and what is refused."""

import json
import re
from pathlib import Path

import allowed as search
import pytest
import torch
from torch import nn

from citrus_lirpa import BoundedNet, Box, Ibp, certify, certify_uap
from citrus_lirpa.bounds import METHODS, allowed, lirpa
from citrus_lirpa.errors import ModelError

X = torch.rand(6, 2, 6, 6, generator=torch.Generator().manual_seed(0))


class Cast(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(72, 3)

    def forward(self, x):
        return self.layer(torch.tanh(x.flatten(1)) + (4 * x).int().float().flatten(1))


class Arctan(nn.Module):
    """What auto_LiRPA alone bounds."""

    def forward(self, x):
        return x.atan()


def behind(*layers: nn.Module) -> nn.Module:
    """A network of images that ends in some layers and three logits."""
    features = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), Arctan(), *layers, nn.Flatten())
    return nn.Sequential(features, nn.Linear(features(X).shape[1], 3)).eval()


def test_every_row_is_a_form_with_methods_in_their_order():
    names = {form.name for form in allowed.FORMS}
    for row in allowed.rows():
        assert row["operation"] in names and row["bounds"] > 0
        assert row["methods"] == list(METHODS)[: len(row["methods"])]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"])
    assert set(search.NETWORKS) == names
    assert len({(r["operation"], r["version"]) for r in allowed.rows()}) == len(allowed.rows())


def test_documentation_has_the_table():
    page = (Path(__file__).parents[2] / "docs" / "soundness.md").read_text("utf-8")
    table = {row["operation"]: {} for row in allowed.rows()}
    for row in allowed.rows():
        table[row["operation"]][row["version"]] = (row["methods"] or ["no"])[-1]
    for name, by in table.items():
        assert f"| {name} | {by.get('0.3', 'no')} | {by.get('0.7.1', 'no')} |" in page, name


#: A form that counts for all methods, and one that a search must find to be wrong on 0.3.
@pytest.mark.parametrize("form", ["Tanh", "LeakyReLU with another slope"])
def test_the_search_finds_what_the_table_says(form, monkeypatch):
    monkeypatch.setattr(search, "BOXES", 8)
    monkeypatch.setattr(search, "STEPS", 6)
    monkeypatch.setattr(search, "LEAST", 150)
    found = search.search(form, range(1))
    version = lirpa.load().version
    (row,) = (r for r in allowed.rows() if (r["operation"], r["version"]) == (form, version))
    assert found.stands and found.methods == row["methods"]
    assert sum(found.bounds.values()) > 2000


@pytest.mark.nightly
@pytest.mark.parametrize("form", list(search.NETWORKS))
def test_the_whole_table(form):
    version = lirpa.load().version
    row = next((r for r in allowed.rows() if (r["operation"], r["version"]) == (form, version)), {})
    assert set(row.get("methods", ())) <= set(search.search(form, range(2)).methods)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Cast, "'Cast' (test_allowed.py:"),
        (lambda: behind(nn.LeakyReLU(-0.5)), "'LeakyReLU with another slope' (layer '0.2'"),
    ],
)
def test_what_does_not_count_is_refused_by_name(make, words):
    if make is not Cast and not lirpa.load().legacy:
        pytest.skip("0.7's graph of it computes something else, which wrapping refuses")
    net = BoundedNet(make().eval(), X[:2])
    y = net(X).argmax(1)
    for refused in (
        lambda: certify(net, X, y, 0.01),
        lambda: certify_uap(net, X, y, 0.01, group_size=3),
        lambda: net.margins(Box.around(X, 0.01), y),
    ):
        with pytest.raises(ModelError) as caught:
            refused()
        message = str(caught.value)
        assert words in message and "not known to be sound" in message and "\n" not in message
    with pytest.warns(UserWarning, match="trains on bounds that certify nothing: .*not known"):
        assert Ibp(clip=None)(net.train(), X, y, 0.01).item() > 0  # it can be trained
    assert Ibp(clip=None)(net.train(), X, y, 0.01).item() > 0  # and that is said once


def test_methods_that_count_are_used_and_the_others_are_named():
    if not lirpa.load().legacy:
        pytest.skip("0.7 bounds it by other methods")
    net = BoundedNet(behind(nn.Softplus()), X[:2])
    y = net(X).argmax(1)
    assert set(certify(net, X, y, 1e-6, method="crown").verdicts()) == {"ibp"}
    certificates = certify(net, X, y, 0.9, method="crown")
    assert "'Softplus'" in certificates.unsupported["crown"]


def test_intervals_of_our_own_count_where_lines_do_not():
    """auto_LiRPA 0.7 has lines of GELU, which are not those of its form by tanh."""
    graph = BoundedNet(behind(nn.GELU(approximate="tanh")), X[:2]).graph
    assert allowed.refusal(graph, "ibp") is None
    assert "'Gelu'" in allowed.refusal(graph, "crown")


def test_an_own_bounded_module_is_refused_too():
    model = behind(nn.LeakyReLU(-0.5))
    with lirpa.parsing():
        bounded = lirpa.load().BoundedModule(model, X[:1])
    with pytest.raises(ModelError, match="LeakyReLU with another slope|known culprits"):
        certify(bounded, X, model(X).argmax(1), 0.01)


def test_networks_of_affine_layers_and_relu_do_not_depend_on_the_table(monkeypatch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 9), nn.ReLU(), nn.Linear(9, 3)).eval()
    y = model(X).argmax(1)
    expected = certify(BoundedNet(model, X[:2]), X, y, 0.02).margin
    monkeypatch.setattr(allowed, "_methods", dict)
    assert torch.equal(certify(BoundedNet(model, X[:2]), X, y, 0.02).margin, expected)


def test_the_table_is_json():
    assert json.loads(allowed.TABLE.read_text("utf-8")) == allowed.rows()


def test_padding_by_zero_is_an_affine_layer_of_our_own_engine():
    model = nn.Sequential(
        nn.ZeroPad2d((0, 2, 1, 0)), nn.Conv2d(2, 4, 3), nn.ReLU(), nn.ZeroPad2d(1),
        nn.Conv2d(4, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3),
    ).eval()  # fmt: skip
    net, y = BoundedNet(model, X[:2]), model(X).argmax(1)
    assert len(net.affine_segments()) == 3
    margin = certify(net, X, y, 0.05, method="crown").margin
    points = X + 0.05 * torch.empty(500, *X.shape).uniform_(-1, 1).sign()
    logits = model(points.flatten(0, 1)).view(500, 6, 3)
    own = logits.gather(2, y.expand(500, 6).unsqueeze(2))
    lowest = (own - logits).scatter(2, y.expand(500, 6).unsqueeze(2), torch.inf).amin((0, 2))
    assert (margin <= lowest + 1e-5).all() and margin.isfinite().all()
