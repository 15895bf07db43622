"""A few of the verdicts that benchmarks/marabou.py compares, where Marabou is installed."""

import pytest

from citrus_lirpa import BoundedNet, certify, data
from citrus_lirpa.attacks import PGD

pytest.importorskip("maraboupy", reason="optional: pip install maraboupy")


def test_marabou_agrees_on_a_few_images(script, tmp_path):
    marabou = script("marabou")
    model, split = marabou.trained(1), data.load("digits", train=False, data_dir=tmp_path)
    answers = set()
    for i in (model(split.pixels(slice(None))).argmax(1) == split.labels).nonzero().flatten()[:3]:
        x, y = split.pixels([int(i)]), split.labels[i].unsqueeze(0)
        net = BoundedNet(model, x).eval()
        for share in (0.5, 1.03):
            eps = share * marabou.edge(net, x, y)
            found = certify(net, x, y, eps, method="bab", attack=PGD(steps=20))
            answer = marabou.ask(model, x[0], int(y), eps, 30)
            assert bool(found.certified) == (answer == "unsat"), (found.verdicts(), answer)
            answers.add(answer)
    assert answers == {"sat", "unsat"}
