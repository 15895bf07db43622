"""benchmarks/paper.py: its sweeps, its rows and what it writes."""

import json

import pytest
import torch
from results import RECORDS

from citrus_lirpa.bounds.net import BoundedNet
from citrus_lirpa.losses import Citrus
from citrus_lirpa.models import build_model
from citrus_lirpa.runs import sweep


@pytest.fixture
def scripts(script):
    return script("paper"), script("paper_losses"), script("paper_output")


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_every_target_is_a_sweep_whose_runs_have_a_row(scripts, tmp_path, scale):
    paper, _, output = scripts
    for name, target in paper.TARGETS.items():
        file = paper.write_sweep(tmp_path / "sweep.toml", name, target, scale)
        runs = sweep.expand(sweep.read(file))
        rows = [paper.row(run, target, tmp_path, []) for run in runs]
        labels = [tuple(row["labels"].values()) for row in rows]
        assert len(set(labels)) == len(rows) > 1, name
        assert all(row["ours"] is None for row in rows)
        if name.startswith("table"):
            assert all(0 <= row["paper"]["ucert"] <= row["paper"]["standard"] for row in rows)
        expected = "convsmall" if scale == "small" else "cnn7"
        assert {run.config.model["name"] for run in runs} == {expected}
        text = output.markdown(target.title, {"scale": scale, "machine": "here", "rows": rows})
        assert text.count("(not run)") == len(rows)


def test_rows_hold_what_the_evaluation_says(scripts, tmp_path):
    paper, _, output = scripts
    target = paper.TARGETS["table3"]
    file = paper.write_sweep(tmp_path / "table3.toml", "table3", target, "small")
    citrus, own = sweep.expand(sweep.read(file))
    folder = tmp_path / citrus.name
    folder.mkdir()
    (folder / "config.toml").write_text(citrus.config.to_toml())
    epochs = [{**record, "seconds": 60.0} for record in RECORDS]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, epochs)))
    record = {
        "data": "cifar10", "eps": 8 / 255, "images": 1000, "group_size": 5, "clip": None,
        "method": "bab", "relational": "cross", "time_limit": 1.0, "standard_accuracy": 0.5,
        "certified_accuracy": {"bab": 0.25}, "uap_accuracy": {"certified": 0.26, "attacked": 0.3},
    }  # fmt: skip
    (folder / "eval-bab.json").write_text(json.dumps(record))
    rows = [paper.row(run, target, tmp_path, [citrus, own]) for run in (citrus, own)]
    assert rows[1]["ours"] is None
    assert rows[0] == {
        "labels": {"method": "citrus"},
        "paper": {"standard": 63.12, "ucert": 39.88, "minutes": None},
        "ours": {"standard": 50, "certified": 25, "ucert": 26, "attacked": 30, "minutes": 2,
                 "images": 1000},
    }  # fmt: skip
    table = output.markdown("T", {"scale": "small", "machine": "here", "rows": rows})
    assert "| citrus | 63.12 | 50.00 | 39.88 | 26.00 | 30.00 | 2.00 |" in table
    assert "| citrus-si (not run) | 50.24 | - | 40.06 | - | - | - |" in table
    output.draw("table3", "T", rows, tmp_path / "table3.png")
    assert (tmp_path / "table3.png").read_bytes().startswith(b"\x89PNG")


def test_losses_of_figure_4(scripts):
    _, losses, _ = scripts
    torch.manual_seed(0)
    model = build_model("mlp", shape=(1, 4, 4), classes=3, mean=[0.0], std=[1.0], hidden=[6])
    x, y = torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    net, loss, seen = BoundedNet(model, x), Citrus(0.5), []
    losses.observe(loss, seen)
    for _ in range(10):
        terms = loss(net, x, y, 0.1)
    (values,) = seen
    assert values["sum"] == pytest.approx(terms.total.item(), rel=1e-5)
    assert values["sum"] / 4 <= values["max"] <= values["sum"]
    own = []
    for i, v in enumerate(terms.perturbations):  # one input at a time, by hand
        lower = (x[i : i + 1] + v - 0.05).clamp(0, 1)
        upper = (x[i : i + 1] + v + 0.05).clamp(0, 1)
        logits = interval(model, lower, upper)
        worst = logits[1].clone()
        worst[0, y[i]] = logits[0][0, y[i]]
        own.append(torch.nn.functional.cross_entropy(worst, y[i : i + 1]).item())
    assert values["same"] <= sum(own) / 6 + 1e-5  # merged margins are no looser than the logits'


def interval(model, lower, upper):
    """Interval bounds of the logits of a small mlp, layer by layer."""
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            centre, radius = (lower + upper) / 2, (upper - lower) / 2
            centre, radius = layer(centre), radius @ layer.weight.abs().T
            lower, upper = centre - radius, centre + radius
        else:
            lower, upper = layer(lower), layer(upper)
    return lower.detach(), upper.detach()
