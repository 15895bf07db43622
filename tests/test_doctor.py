"""The doctor passes here, and each of its checks finds the fault that it is for."""

import pytest
import torch

from citrus_lirpa import METHODS, BoundedNet, __version__, _compat, doctor
from citrus_lirpa.errors import SoundnessError


def sabotage(monkeypatch, change):
    """Let the doctor's nets, once wrapped, bound by ``change(margins, method)`` instead."""

    class Sabotaged(BoundedNet):
        wrapped = False

        def __init__(self, *args):
            super().__init__(*args)
            self.wrapped = True

        def margins(self, box, y, method="ibp"):
            def margins(method):
                return BoundedNet.margins(self, box, y, method)

            return change(margins, method) if self.wrapped else margins(method)

    monkeypatch.setattr(doctor, "BoundedNet", Sabotaged)


def test_all_checks_pass_and_the_versions_are_told(tmp_path):
    pytest.importorskip("torchvision")
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


@pytest.mark.parametrize("factor", [1.001, 0.0, -1.0, float("nan")])
def test_wrong_gradients_are_found(monkeypatch, factor):
    def change(margins, how):
        value = margins(how)
        return value.detach() + factor * (value - value.detach())

    sabotage(monkeypatch, change)
    with pytest.raises(SoundnessError, match="weight gradients through IBP are off"):
        doctor.check_gradients()


def test_a_fault_stops_the_doctor_before_it_says_passed(monkeypatch, tmp_path):
    pytest.importorskip("torchvision")
    sabotage(monkeypatch, lambda margins, how: margins(how) + 1)
    lines = []
    with pytest.raises(SoundnessError, match="ibp bounds are unsound"):
        for line in doctor.run_checks(tmp_path):
            lines.append(line)
    assert any(torch.__version__ in line for line in lines)  # what a bug report needs comes first
    assert "all checks passed" not in lines
