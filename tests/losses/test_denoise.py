"""The loss of denoisers against its formulas, and how it is trained."""

import json
from signal import SIGINT, raise_signal

import pytest
import torch
import torch.nn.functional as F
from command_line import run, said
from reference import EPS, SHAPE, batch, small_mlp, wrapped
from torch import nn

from citrus_lirpa import config, data, fit
from citrus_lirpa.bounds.unbounded import UnboundedNet
from citrus_lirpa.errors import ConfigError, InputError, Interrupted
from citrus_lirpa.losses import Denoise
from citrus_lirpa.models import denoiser
from citrus_lirpa.training.setup import build

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "ce"
    few = ("--set", "train.epochs=1", "--set", "data.limit=192")
    made = run("train", "--preset", "digits", "--method", "ce", *few, "--out", folder)
    assert made[0] == 0
    return folder


def settings(*overrides):
    few = ("train.epochs=2", "data.limit=192", "model.width=4")
    return config.resolve(preset="digits", method="denoiser", overrides=[*few, *overrides])


def noisy(x, sigma=0.3):
    torch.manual_seed(3)
    return x + sigma * torch.randn_like(x)


def test_without_a_classifier_it_is_the_squared_error_of_pixels_at_any_eps():
    (x, y), net = batch(), UnboundedNet(denoiser(SHAPE, 3, width=5), 3)
    expected = F.mse_loss(net(noisy(x)), x)
    for eps in (0.0, EPS):
        torch.manual_seed(3)
        terms = Denoise(sigma=0.3)(net, x, y, eps)
        torch.testing.assert_close(terms.total, expected)
        assert terms.logits.shape == (len(x), 0) and terms.margins is None


def test_with_a_classifier_it_is_the_cross_entropy_of_its_clean_answer():
    (x, y), net, judge = (
        batch(),
        UnboundedNet(denoiser(SHAPE, 3, width=5), 3),
        small_mlp().requires_grad_(False),
    )
    expected = F.cross_entropy(judge(net(noisy(x))), judge(x).argmax(1))
    torch.manual_seed(3)
    terms = Denoise(sigma=0.3, classifier=judge)(net, x, y, EPS)
    torch.testing.assert_close(terms.total, expected)
    terms.backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in net.parameters())
    assert all(p.grad is None for p in judge.parameters())


def test_what_is_no_denoiser_is_refused():
    x, y = batch()
    for net, message in (
        (wrapped(small_mlp()), "the denoiser is a BoundedNet; expected an UnboundedNet"),
        (UnboundedNet(small_mlp(), 3), r"what the denoiser returns is a tensor \(6, 3\)"),
    ):
        with pytest.raises(InputError, match=message):
            Denoise()(net, x, y, EPS)
    net = UnboundedNet(nn.Identity(), 3)
    with pytest.raises(InputError, match=r"classifier is 'runs/x'; expected a network"):
        Denoise(classifier="runs/x")(net, x, y, EPS)
    with pytest.raises(InputError, match="sigma is 0"):
        Denoise(sigma=0)
    for method, model in (("denoiser", "mlp"), ("ce", "denoiser")):
        with pytest.raises(ConfigError, match="expected denoiser for both or for neither"):
            config.resolve(preset="digits", method=method, overrides=[f"model.name={model}"])


def test_an_interrupted_training_ends_with_the_very_weights(tmp_path, classifier):
    """In front of a classifier too, which the checkpoint holds."""
    images = data.load("digits", train=True, data_dir=".")
    chosen = config.named(settings(f"loss.classifier={json.dumps(str(classifier))}"))
    trained = []
    for more in ({}, {"folder": tmp_path / "run"}):
        net, loss = build(chosen, CPU)
        if more:
            with pytest.raises(Interrupted):
                fit(net, loss, images, chosen, **more, on_epoch=lambda _: raise_signal(SIGINT))
            net, loss = build(chosen, CPU)
        history = fit(net, loss, images, chosen, **more)
        assert len(history.records) == 2 and 0 < history.records[1]["accuracy"] <= 1
        trained.append(net.parameters())
    assert all(torch.equal(*pair) for pair in zip(*trained, strict=True))


def test_a_run_goes_in_front_of_a_network_and_is_none_itself(tmp_path, classifier):
    made = ("train", "--preset", "digits", "--quiet", "--method", "denoiser", "--out")
    few = (f"--set={one}" for one in ("train.epochs=1", "data.limit=192", "loss.sigma=0.5"))
    status, told = run(*made, tmp_path / "d", *few)
    assert status == 0 and "epoch 1: " in told and "accuracy" not in told  # it classifies nothing
    assert f"smooth RUN --sigma 0.5 --denoiser {tmp_path / 'd'}" in told
    smooth = ("smooth", classifier, "--sigma", "1/2", "--n", 100, "--limit", 3, "--quiet")
    status, told = run(*smooth, "--denoiser", tmp_path / "d")
    assert status == 0 and told.count("of the smoothed network, each image with probability") == 8
    record = json.loads((classifier / "smooth-0.5-denoised.json").read_text())
    assert record["denoiser"] == str(tmp_path / "d")
    assert "is a denoiser, which answers with no classes" in said(*run("eval", tmp_path / "d"), 2)
    told = said(*run(*smooth, "--denoiser", classifier), 2)
    assert "is a network of the method ce; train a denoiser" in told
    assert "the denoiser is 'none'; expected a run" in said(*run(*smooth, "--denoiser", "none"), 2)
