"""What benchmarks/verifier.py --against runs, counts and says."""

import sys

import pytest
from networks import deep_net, images

from citrus_lirpa.data.types import DatasetSpec, Split

SPEC = DatasetSpec(name="noise", shape=(1, 4, 4), class_names="abc", loader=lambda *_: None)
#: In place of abcrown.py: it answers by the number of the image, and checks what it is given.
STAND_IN = """
import argparse, pathlib
parser = argparse.ArgumentParser()
for name in ("config", "device", "timeout", "onnx_path", "vnnlib_path", "results_file"):
    parser.add_argument("--" + name)
given = parser.parse_args()
assert given.config == "some.yaml" and given.timeout == "5"
assert pathlib.Path(given.onnx_path).is_file()
assert "X_15" in pathlib.Path(given.vnnlib_path).read_text()
number = int(given.vnnlib_path[-12:-7])
answer = ("unsat", "sat\\n((X_0 0.5))", "safe-incomplete", None, "timeout")[number % 5]
if answer:
    pathlib.Path(given.results_file).write_text(answer)
"""


@pytest.fixture
def against(script):
    return script("against")


def test_both_get_the_same_images_and_are_counted(tmp_path, against):
    pytest.importorskip("onnx")
    (tmp_path / "complete_verifier").mkdir()
    (tmp_path / "complete_verifier" / "abcrown.py").write_text(STAND_IN)
    net = deep_net()
    x, y = images(net, 10, wrong=[7])
    data = Split((255 * x).byte(), y)
    correct = net(data.pixels(slice(None))).argmax(1) == y
    rival = against.Rival(tmp_path, sys.executable, "some.yaml")
    pairs = against.compare(rival, net, data, SPEC, 0.02, 5.0, tmp_path / "exported")
    assert pairs.images == correct.nonzero().flatten().tolist() and 7 not in pairs.images
    given = ["proved", "broken", "proved", "unknown", "unknown"]
    assert [verdict for verdict, _ in pairs.theirs] == [given[i % 5] for i in pairs.images]
    assert {verdict for verdict, _ in pairs.ours} <= set(against.VERDICTS)
    ours = dict(zip(pairs.images, pairs.ours, strict=True))
    expected = [i for i in pairs.images if {ours[i][0], given[i % 5]} == {"proved", "broken"}]
    assert pairs.contradictions() == expected


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
