"""The checks made when a net is wrapped, and the doctor's: each finds the fault it is for."""

from dataclasses import replace

import pytest
import torch
from reference import assert_contains
from torch import nn

from citrus_lirpa import METHODS, BoundedNet, Box, __version__
from citrus_lirpa.bounds import lirpa as _compat
from citrus_lirpa.errors import ModelError, SoundnessError
from citrus_lirpa.runs import doctor

# ------------------------------------------------------------------- when a net is wrapped


class Net(nn.Module):
    """``function(x, layer)`` as a model."""

    def __init__(self, function, layer):
        super().__init__()
        self.function, self.layer = function, layer

    def forward(self, x):
        return self.function(x, self.layer)


REFUSED = {
    "depends on the data": (lambda x, f: f(x) if x[0, 0, 0] > 0.5 else -f(x), (4, 4)),
    "unsupported operation": (lambda x, f: torch.acos(f(x)), (4, 4)),
    "one number an image": (lambda x, f: f(x)[:, 0], (4, 4)),
    "one class": (lambda x, f: f(x)[:, :1], (4, 4)),
    "logits of rank 3": (lambda x, f: f(x).unsqueeze(1), (4, 4)),
    "two outputs": (lambda x, f: (f(x), x), (4, 4)),
    "fixed batch of one": (lambda x, f: f(x.view(1, 4, 4)), (4, 4)),
    "another size of image": (lambda x, f: f(x), (4, 5)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_bounded_are_refused_in_one_line(name):
    function, shape = REFUSED[name]
    model = Net(function, nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    model.train()
    with pytest.raises(ModelError) as caught:
        BoundedNet(model, torch.zeros(2, *shape))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) > 30
    assert model.training


def pooled(pool, features):
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(features, 3)
    )


SOUND_OR_REFUSED = {
    "view by batch size": lambda: Net(lambda x, f: f(x.view(x.size(0), -1)), nn.Linear(16, 3)),
    "padded average": lambda: pooled(nn.AvgPool2d(3, 1, padding=1), 32),
    "average, padding not counted": lambda: pooled(
        nn.AvgPool2d(2, 2, padding=1, count_include_pad=False), 18),
    "overlapping average": lambda: pooled(nn.AvgPool2d(2, 1), 18),
    "average": lambda: pooled(nn.AvgPool2d(2), 8),
    "maximum": lambda: pooled(nn.MaxPool2d(2), 8),
    "overlapping maximum": lambda: pooled(nn.MaxPool2d(2, 1), 18),
    "square": lambda: Net(lambda x, f: f[2](f[1](f[0](x)) ** 2), nn.ModuleList(
        [nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 3)])),
    "no activation": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)),
    "residual": lambda: Net(lambda x, f: f[2](f[0](x) + f[1](f[0](x)).relu()), nn.ModuleList(
        [nn.Flatten(), nn.Linear(16, 16), nn.Linear(16, 3)])),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND_OR_REFUSED)
def test_unusual_layers_are_bounded_soundly_or_refused(name):
    x, y = torch.rand(2, 1, 4, 4), torch.tensor([1, 2])
    model = SOUND_OR_REFUSED[name]().eval()
    try:
        net = BoundedNet(model, x)
    except ModelError as error:
        assert "\n" not in str(error)
        assert name == "view by batch size" or "average" in name and name != "average"
        return
    for radius in (1e-5, 0.05, 0.5):
        for method in METHODS:
            try:
                assert_contains(net, Box.around(x, radius), y, model, [method])
            except ModelError as error:  # auto_LiRPA's other methods know fewer layers
                assert method != "ibp" and "\n" not in str(error)


# ------------------------------------------------------------------------------ the doctor


def sabotage(monkeypatch, change):
    """Let the doctor's nets, once wrapped, bound by ``change(margins, method)`` instead."""

    class Sabotaged(BoundedNet):
        wrapped = False

        def __init__(self, *args):
            super().__init__(*args)
            self.wrapped = True

        def bound_unchecked(self, box, labels=None, method="ibp"):
            def margins(method):
                return BoundedNet.bound_unchecked(self, box, labels, method).margins

            bounds = super().bound_unchecked(box, labels, method)
            if labels is None or not self.wrapped:
                return bounds
            return replace(bounds, margins=change(margins, method))

    monkeypatch.setattr(doctor, "BoundedNet", Sabotaged)


def test_all_checks_pass_and_the_versions_are_told(tmp_path):
    state = torch.get_rng_state()
    lines = list(doctor.run_checks(tmp_path))
    assert all("\n" not in line for line in lines)
    text = "\n".join(lines)
    for expected in (__version__, torch.__version__, _compat.load().version, *METHODS,
                     "data set mnist", "GPU: "):  # fmt: skip
        assert expected in text
    assert lines[-1] == "all checks passed"
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", [1.0, float("nan")])
def test_unsound_bounds_are_found_and_named(monkeypatch, method, wrong):
    sabotage(monkeypatch, lambda margins, how: margins(how) + (wrong if how == method else 0))
    with pytest.raises(SoundnessError, match=f"^{method} bounds are unsound"):
        doctor.check_containment()


def test_alpha_crown_that_does_nothing_is_found(monkeypatch):
    sabotage(monkeypatch, lambda margins, how: margins("crown" if how == "alpha-crown" else how))
    assert "contain" in doctor.check_containment()  # it is sound
    with pytest.raises(SoundnessError, match="α-CROWN does not improve on CROWN"):
        doctor.check_alpha()


@pytest.mark.filterwarnings("ignore:the loss is nan")
@pytest.mark.parametrize("factor", [1.001, 0.0, -1.0, float("nan")])
def test_wrong_gradients_are_found(monkeypatch, factor):
    def change(margins, how):
        value = margins(how)
        return value.detach() + factor * (value - value.detach())

    sabotage(monkeypatch, change)
    with pytest.raises(SoundnessError, match="weight gradients through IBP are off"):
        doctor.check_gradients()


def test_a_fault_stops_the_doctor_before_it_says_passed(monkeypatch, tmp_path):
    sabotage(monkeypatch, lambda margins, how: margins(how) + 1)
    lines = []
    with pytest.raises(SoundnessError, match="ibp bounds are unsound"):
        for line in doctor.run_checks(tmp_path):
            lines.append(line)
    assert any(torch.__version__ in line for line in lines)  # what a bug report needs comes first
    assert "all checks passed" not in lines
