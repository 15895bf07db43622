"""What benchmarks/verifier.py --against runs, counts and says."""

import math
import runpy
import sys
import time

import click
import pytest
import torch
from networks import deep_net
from torch import nn

from citrus_lirpa import BoundedNet
from citrus_lirpa.data.types import Split
from citrus_lirpa.models import Normalise

#: In place of abcrown.py: it checks what it is given, and says one line of answers.txt after the
#: other, until one of them is a failure.
STAND_IN = """
import argparse, pathlib, sys
parser = argparse.ArgumentParser()
for name in ("config", "device", "timeout", "num_outputs", "root_path", "csv_name", "model",
             "dataset", "load_model", "results_file"):
    parser.add_argument("--" + name)
given = parser.parse_args()
assert given.config == "some.yaml" and given.timeout == "5" and given.num_outputs == "3"
folder, answers = pathlib.Path(given.root_path), pathlib.Path("answers.txt")
assert (folder / "problem.pt").is_file() and pathlib.Path(given.load_model).is_file()
assert "def network" in (folder / "problem.py").read_text()
rest = answers.read_text().splitlines()
while rest:
    line = rest.pop(0)
    answers.write_text("\\n".join(rest))
    if line == "failure":
        sys.exit("out of ideas")
    print(f"Result: {line} seconds", flush=True)
"""
ANSWERS = ["safe-incomplete in 0.05", "unsafe-pgd in 0.15", "failure", "unknown in 0.25"]


@pytest.fixture
def against(script):
    return script("against")


def run(against, folder, answers):
    """Compare on all of ten images but number 7, which is misclassified."""
    (folder / "complete_verifier").mkdir()
    (folder / "complete_verifier" / "abcrown.py").write_text(STAND_IN)
    net = deep_net()
    x = (255 * torch.rand(10, 1, 4, 4)).byte()
    y = net(x / 255).argmax(1)
    y[7] = (y[7] + 1) % 3
    (folder / "complete_verifier" / "answers.txt").write_text(
        "\n".join([*answers, *["safe in 0.1"] * (9 - len(answers))])
    )
    rival = against.Rival(folder, sys.executable, "some.yaml")
    return against.compare(rival, net, Split(x, y), 0.02, 5.0, folder)


def test_both_get_the_same_images_and_are_counted(tmp_path, against, capsys):
    pairs = run(against, tmp_path, ANSWERS)
    assert pairs.images == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    given = [("proved", 0.05), ("broken", 0.15), ("unknown", 0.0), ("unknown", 0.25)]
    assert pairs.theirs == [*given, *[("proved", 0.1)] * 5]
    assert "out of ideas" in capsys.readouterr().err
    assert {verdict for verdict, _ in pairs.ours} <= set(against.VERDICTS)
    pair = zip(pairs.images, pairs.ours, pairs.theirs, strict=True)
    wrong = [i for i, a, b in pair if {a[0], b[0]} == {"proved", "broken"}]
    assert pairs.contradictions() == wrong


def test_a_failure_on_the_first_image_is_said(tmp_path, against):
    with pytest.raises(click.ClickException, match="failed: out of ideas"):
        run(against, tmp_path, ["failure"])


def test_the_file_that_hands_a_problem_over(tmp_path, against, monkeypatch):
    monkeypatch.setattr(time, "time", time.time)  # which the file sets
    torch.save({"network": nn.Identity(), "x": 1, "y": 2, "eps": 3}, tmp_path / "problem.pt")
    (tmp_path / "problem.py").write_text(against.PROBLEM)
    found = runpy.run_path(str(tmp_path / "problem.py"))
    assert isinstance(found["network"](), nn.Identity) and time.time is time.process_time
    assert found["images"]({}) == {"X": 1, "labels": 2, "eps": 3, "norm": math.inf}


def test_the_network_is_handed_over_without_its_normalisation(against):
    model = nn.Sequential(Normalise([0.3, 0.4], [0.5, 0.2]), nn.Flatten(), nn.Linear(8, 3)).eval()
    x, y = torch.rand(4, 2, 2, 2), torch.zeros(4, dtype=torch.long)
    net = BoundedNet(model, x[:2]).eval()
    problem = against.handed_over(net, x, y, 0.5)
    with torch.no_grad():
        assert torch.allclose(problem["network"](problem["x"]), net(x), atol=1e-6)
        moved = problem["network"](problem["x"] + problem["eps"])
        assert torch.allclose(moved, net(x + 0.5), atol=1e-5)


def test_what_it_prints(against):
    pairs = against.Pairs(
        [3, 4, 8],
        [("proved", 0.5), ("broken", 0.25), ("unknown", 0.25)],
        [("broken", 1.0), ("broken", 1.0), ("unknown", 0.5)],
    )
    assert pairs.lines() == [
        "citrus-lirpa: 1 proved, 1 broken, 1 unknown, 1.0 CPU seconds",
        "α,β-CROWN: 0 proved, 2 broken, 1 unknown, 2.5 CPU seconds",
        "contradictions: 1: images 3",
        "ratio of times: 2.50",
    ]
