"""Randomized smoothing: radii of a linear network, confidence, and the same counts however run."""

import math

import pytest
import torch
from command_line import run, said
from scipy.stats import binom, norm
from torch import nn

from citrus_lirpa.errors import InputError
from citrus_lirpa.formats.onnx import save_onnx
from citrus_lirpa.verify import Saved, Smoothing, smooth
from citrus_lirpa.verify.smoothing import ABSTAIN

SIGMA = 0.5


class Line(nn.Module):
    """Two classes on either side of a line; the smoothed network has the same border."""

    def forward(self, x):
        distance = (0.6 * x[:, 0] + 0.8 * x[:, 1]).unsqueeze(1)
        return torch.cat([-distance, distance], 1)


def at(*distances):
    """Inputs at these signed distances from the border, and their classes."""
    d = torch.tensor(distances)
    return torch.stack([0.6 * d, 0.8 * d], 1), (d > 0).long()


def test_radius_of_a_linear_network_is_nearly_its_distance():
    x, y = at(0.2, -0.4, 0.7)
    found = smooth(Line(), x, y, Smoothing(sigma=SIGMA, n=20_000))
    assert found.predicted.tolist() == y.tolist()
    for radius, distance in zip(found.radius.tolist(), (0.2, 0.4, 0.7), strict=True):
        share = norm.cdf(distance / SIGMA)
        slack = 5 * math.sqrt(share * (1 - share) / 20_000) * SIGMA / norm.pdf(distance / SIGMA)
        assert distance - 2 * slack < radius < distance + slack
    assert found.accuracy() == 1 and found.accuracy(0.3) == pytest.approx(2 / 3)
    assert found.covered(0.3 / math.sqrt(2), 2) == pytest.approx(2 / 3)


def test_a_radius_is_the_clopper_pearson_bound_written_out():
    x, y = at(0.3)
    smoothing = Smoothing(sigma=SIGMA, n=1000, alpha=0.01)
    found = smooth(Line(), x, y, smoothing)
    count, share = int(found.counts), norm.cdf(float(found.radius) / SIGMA)
    assert binom.sf(count - 1, 1000, share) == pytest.approx(0.01, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.01, 0.2])
def test_certificates_are_wrong_as_rarely_as_they_promise(alpha):
    """And not much more rarely, as a bound that gives too little would be."""
    x, y = at(0.1)
    found = smooth(
        Line(), x.expand(2000, 2), y.expand(2000), Smoothing(sigma=SIGMA, n0=20, n=100, alpha=alpha)
    )
    wrong = int((found.radius > 0.1).sum()) + int(
        ((found.predicted != 1) & (found.predicted != ABSTAIN)).sum()
    )
    assert wrong <= binom.ppf(0.9999, 2000, alpha)
    assert wrong >= 0.2 * alpha * 2000


def test_it_abstains_at_the_border():
    x, y = at(0.0)
    found = smooth(Line(), x, y, Smoothing(sigma=SIGMA, n=1000))
    assert found.predicted.tolist() == [ABSTAIN] and found.radius.tolist() == [0]
    assert found.accuracy() == 0 and "1 abstained" in repr(found)


def test_resumed_counts_are_those_of_one_run(tmp_path):
    x, y = at(*torch.linspace(-1, 1, 25).tolist())
    smoothing = Smoothing(sigma=SIGMA, n=200, seed=7)
    whole = smooth(Line().train(), x, y, smoothing)
    saved = Saved(tmp_path / "p", {}, resume=False)
    smooth(Line(), x[:20], y[:20], smoothing, saved=saved)
    assert saved.count() == 2

    calls = []
    counted = Line()
    counted.register_forward_hook(lambda *_: calls.append(1))
    resumed = smooth(counted, x, y, smoothing, saved=Saved(tmp_path / "p", {}, resume=True))
    assert len(calls) == 2 * 5  # n0 and n of the inputs that were left
    assert resumed.counts.tolist() == whole.counts.tolist()
    assert resumed.predicted.tolist() == whole.predicted.tolist()
    other = smooth(Line(), x, y, Smoothing(sigma=SIGMA, n=200, seed=8))
    assert other.counts.tolist() != whole.counts.tolist()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(sigma=0.0), "sigma is 0"), (dict(sigma=-1.0), "sigma is -1"),
        (dict(n=99), "n is 99; expected at least 100"), (dict(n0=0), "n0 is 0"),
        (dict(alpha=0.0), "alpha is 0"), (dict(alpha=1.0), "alpha is 1"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(changed, message):
    with pytest.raises(InputError, match=message):
        Smoothing(**{"sigma": 0.25, **changed})


def test_denoisers_that_do_not_fit_are_refused_in_one_line(tmp_path):
    made = ("train", "--preset", "digits", "--method", "ce", "--out", tmp_path / "run", "--quiet")
    assert run(*made, "--set", "train.epochs=1")[0] == 0
    for file, model, shape, message in (
        ("logits", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (1, 8, 8), "expected images"),
        ("larger", nn.Conv2d(1, 1, 3, padding=1), (1, 9, 9), r"takes images (1, 9, 9), but"),
        ("text", None, (), "the denoiser is 'text'; expected a run of --method denoiser"),
    ):
        path = "text" if model is None else tmp_path / f"{file}.onnx"
        if model is not None:
            save_onnx(model, shape, path)
        given = ("smooth", tmp_path / "run", "--sigma", 1, "--denoiser", path, "--quiet")
        assert message in said(*run(*given), 2)


def test_command_writes_a_record_and_a_curve(tmp_path):
    made = ("train", "--preset", "digits", "--method", "gaussian", "--out", tmp_path / "run")
    assert run(*made, "--set", "train.epochs=2", "--quiet")[0] == 0
    command = ("smooth", tmp_path / "run", "--sigma", "1/4", "--n", 200, "--limit", 12, "--quiet")
    status, output = run(*command)
    assert status == 0 and "within 0.25" in output and "probability 0.999" in output
    assert {"smooth-0.25.json", "smooth-0.25.png"} <= {p.name for p in (tmp_path / "run").iterdir()}
    assert "finished before" in run(*command, "--requeue")[1]
    assert "n is 5; expected at least 100" in said(*run(*command[:4], "--n", 5), 2)
    assert not list((tmp_path / "run").glob("*.partial"))
