"""The registry: which options each method has, and what its loss makes of them."""

import inspect

import pytest
import torch
from reference import EPS, batch, small_mlp, wrapped

from citrus_lirpa.attacks import PGD
from citrus_lirpa.errors import ConfigError
from citrus_lirpa.losses import LOSSES, Loss, Sabr
from citrus_lirpa.losses.cross_input import Groups, Shifts
from citrus_lirpa.losses.registry import from_options

LATENT = dict(split=-1, scale=5.0, latent_steps=20, link=0.5)
ONE_STEP = dict(alpha="required", attack_ratio=1.0, attack_steps=1, attack_step_size=10.0)
SABR = dict(tau_ratio="required", attack_steps=8, attack_step_size=0.5)
#: Options of configuration files and their defaults, which runs of earlier versions rely on.
OPTIONS = {
    "citrus": dict(tau_ratio="required", pairing="shifts", partners=4, include_self=False, k=2,
                   method="ibp", reduction="sum", worst=0, universal=0, alpha=1.0, sign_steps=0.0,
                   attack_steps=20, attack_step_size=0.5, attack_restarts=1),
    "ibp": dict(method="ibp"), "crown-ibp": {}, "sabr": SABR, "taps": LATENT,
    "staps": LATENT | SABR, "mtl-ibp": ONE_STEP, "cc-ibp": ONE_STEP, "exp-ibp": ONE_STEP,
    "pgd": dict(attack_steps=10, attack_step_size=0.25),
    "colt": dict(split=-1, natural=0.0, mix=0.3, halvings=14, stage_rate=0.75, eps_growth=1.1,
                 stable=0.005, stable_growth=1.5, projections=50, attack_steps=8,
                 attack_step_size=0.25),
    "uap-game": dict(climb=50, memory=100, step_size=0.25), "gaussian": dict(sigma=0.25),
    "smoothadv": dict(sigma=0.25, radius=0.5, samples=2, attack_steps=10),
    "denoiser": dict(sigma=0.25, classifier=""),
    "uat": dict(step_size=0.25), "cw-uat": dict(step_size=0.25), "ce": {},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_every_method_keeps_its_options(name):
    first, *options = inspect.signature(LOSSES[name]).parameters.values()
    assert first.name == "max_eps" and all(p.kind is p.KEYWORD_ONLY for p in options)
    found = {p.name: "required" if p.default is p.empty else p.default for p in options}
    assert found == OPTIONS[name]
    assert all(
        p.annotation is (float if p.default is p.empty else type(p.default)) for p in options
    )


def test_options_reach_the_loss():
    loss = LOSSES["citrus"](EPS, tau_ratio=0.3, pairing="groups", partners=2, include_self=True,
                            method="crown", reduction="max", attack_steps=3, attack_step_size=0.1,
                            attack_restarts=2)  # fmt: skip
    assert (loss.tau_ratio, loss.method, loss.reduction) == (0.3, "crown", "max")
    assert loss.pairing == Groups(3, True) and loss.attack == PGD(3, 0.1, 2)
    assert LOSSES["citrus"](EPS, tau_ratio=0.3).pairing == Shifts(4)
    taps = LOSSES["staps"](EPS, tau_ratio=0.3, latent_steps=7, attack_steps=2)
    assert (taps.max_eps, taps.steps, taps.attack) == (EPS, 7, PGD(2, 0.5))
    with pytest.raises(ConfigError, match=r"unknown pairing 'group'.*groups"):
        LOSSES["citrus"](EPS, tau_ratio=0.3, pairing="group")
    for options in (dict(tau_ratio=0.3, tau=0.3), {}, dict(tau_ratio=0.3, clip=None)):
        with pytest.raises(TypeError, match="argument"):
            LOSSES["sabr"](EPS, **options)


class Twice(Loss):
    """A loss of a user."""

    def __init__(self, weight: float = 2.0, *, attack=None, clip=(0.0, 1.0)):
        super().__init__(clip)
        self.weight, self.attack = weight, self.choose_attack(attack)


def test_a_new_loss_needs_its_class_alone():
    make = from_options(Twice)
    assert [*inspect.signature(make).parameters] == [
        "max_eps", "weight", "attack_steps", "attack_step_size",
    ]  # fmt: skip
    loss = make(EPS, weight=3.0, attack_steps=5)
    assert loss.weight == 3.0 and loss.attack == PGD(5)


@pytest.mark.parametrize("name", ["citrus", "sabr", "staps", "mtl-ibp", "pgd"])
def test_a_pgd_gets_the_range_of_its_loss(name):
    """The range of the loss, in which it cuts the boxes, also where the two are given apart."""
    kind = type(LOSSES[name](EPS, **{k: 0.5 for k, v in OPTIONS[name].items() if v == "required"}))
    options = {k: v for k, v in dict(max_eps=EPS, tau_ratio=0.5, alpha=0.5).items()
               if k in inspect.signature(kind).parameters}  # fmt: skip
    clip = (0.0, 3.0)
    loss = kind(**options, attack=PGD(steps=2), clip=clip)
    assert loss.attack == PGD(steps=2, clip=clip)
    x, y = 3 * torch.rand_like(batch()[0]), batch()[1]
    v = loss(wrapped(small_mlp()), x, y, EPS).perturbations
    assert v.abs().max() <= EPS + 1e-6 and (x + v).min() >= -1e-6 and (x + v).max() <= 3 + 1e-6


def test_any_other_attack_stays_as_it_is():
    def attack(net, x, y, eps):
        return torch.zeros_like(x)

    class Logged(PGD):
        def __call__(self, net, x, y, eps):
            calls.append(eps)
            return super().__call__(net, x, y, eps)

    calls = []
    net, (x, y) = wrapped(small_mlp()), batch()
    assert not Sabr(0.5, attack=attack)(net, x, y, EPS).perturbations.any()
    Sabr(0.5, attack=Logged(steps=1))(net, x, y, EPS)
    assert calls == [EPS]
