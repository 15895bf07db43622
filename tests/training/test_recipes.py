"""Presets against the published recipe of every method, in every setting of the papers."""

import pytest

from citrus_lirpa.attacks import PGD
from citrus_lirpa.training.config import MODES, RunConfig, make_loss, methods, presets, resolve

# Values in the order of these settings, copied by hand from the methods' papers and code:
SETTINGS = ("mnist-0.1", "mnist-0.3", "cifar10-2-255", "cifar10-8-255", "tinyimagenet-1-255")
TAU_RATIO = {
    "citrus": (0.4, 0.6, 0.1, 0.7, 0.4),
    "citrus-si": (0.4, 0.6, 0.1, 0.7, 0.4),
    "sabr": (0.4, 0.6, 0.1, 0.7, 0.4),
    "staps": (0.4, 0.6, 0.1, 0.7, 0.6),
}
ALPHA = (1e-2, 8e-2, 4e-3, 0.5, 1e-2)
L1_OF_SMALL_BOXES = (1e-5, 1e-6, 1e-6, 0.0, 1e-6)
L1_OF_MIXED_LOSSES = (1e-5, 1e-6, 3e-6, 1e-7, 5e-5)
# what TAPS and the mixed losses end with: 0.2 and 0.4 on MNIST, ε elsewhere
EPS_FACTOR = (2.0, 4 / 3, 1.0, 1.0, 1.0)
SPLIT = (-1, -1, 1, -1, -1)  # behind Flatten; at 2/255 behind CNN7's normalisation and first block
EPOCHS = (70, 70, 160, 180, 160)
MILESTONES = ((50, 60), (50, 60), (120, 140), (140, 160), (120, 140))
RAMP = ((2, 20), (2, 20), (2, 80), (2, 80), (2, 80))
BATCH = (64, 64, 128, 128, 128)
BATCH_OF_SINGLE_INPUTS = (256, 256, 128, 128, 128)

MIXED = ("mtl-ibp", "cc-ibp", "exp-ibp")
BOUNDLESS = ("ce", "pgd", "uat", "cw-uat", "uap-game", "gaussian", "smoothadv", "colt")
RAMPED = ("pgd", "smoothadv")


def published(method: str, at: int) -> dict:
    """[loss] and the keys of [train] in which methods differ, in setting number ``at``."""
    loss, train = {"name": method}, {"l1": 0.0, "eps_factor": 1.0, "shi": 0.5}
    train |= {"epochs": EPOCHS[at], "milestones": MILESTONES[at], "batch_size": BATCH[at]}
    train |= {"ramp_start": RAMP[at][0], "ramp_length": RAMP[at][1], "initialisation": "shi"}
    if method == "citrus-si":
        loss = {"name": "citrus", "include_self": True}
    if method in TAU_RATIO:
        loss["tau_ratio"] = TAU_RATIO[method][at]
    if method in (*TAU_RATIO, "taps"):
        train["l1"] = L1_OF_SMALL_BOXES[at]
    if method in ("taps", "staps") and SETTINGS[at] == "cifar10-2-255":
        loss["split"] = SPLIT[at]
    if method in MIXED:
        loss["alpha"], train["l1"] = ALPHA[at], L1_OF_MIXED_LOSSES[at]
        if SETTINGS[at] == "cifar10-2-255":
            loss |= {"attack_ratio": 2.1, "attack_steps": 8, "attack_step_size": 0.25}
    if method in ("taps", "staps", *MIXED):
        train["eps_factor"] = EPS_FACTOR[at]
    if method in ("ibp", "crown-ibp", "sabr", "taps", "staps", *MIXED):
        train["batch_size"] = BATCH_OF_SINGLE_INPUTS[at]
    if method in ("ibp", "crown-ibp") and SETTINGS[at].startswith("mnist"):
        train["ramp_start"] = 1
    if (method, SETTINGS[at]) == ("ibp", "tinyimagenet-1-255"):
        train |= {"epochs": 80, "milestones": (61, 71), "ramp_length": 20, "shi": 0.2}
    if (method, SETTINGS[at]) == ("sabr", "tinyimagenet-1-255"):
        train |= {"epochs": 180, "milestones": (140, 160)}
    if method == "colt":  # published for CIFAR-10 alone: 200 epochs for each of three stages
        loss["split"], train["milestones"], train["eps_factor"] = 2, (), 1.05
        train["l1"], train["batch_size"] = 1e-5, 100
        if SETTINGS[at].startswith("cifar10"):
            train["epochs"] = 600
        if SETTINGS[at] == "cifar10-8-255":
            loss |= {"eps_growth": 1.2, "stage_rate": 0.5, "stable": 0.003}
            train |= {"l1": 5e-6, "batch_size": 150}
    if method in BOUNDLESS:
        train |= {"shi": 0.0, "initialisation": "default"}
    if method in BOUNDLESS and method not in RAMPED:  # which ramp as the certified methods do
        train |= {"ramp_start": 1, "ramp_length": 0}
    return {"loss": loss, "train": train}


@pytest.mark.parametrize("method", [m for m in methods() if m != "denoiser"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_recipe_is_the_published_one(setting, method):
    config, common = resolve(preset=setting, method=method), resolve(preset=setting)
    expected = published(method, SETTINGS.index(setting))
    assert config.loss == expected["loss"]
    assert {key: getattr(config.train, key) for key in expected["train"]} == expected["train"]
    assert (config.data, config.model) == (common.data, common.model)
    for key in ("eps", "lr", "lr_factor", "grad_clip", "schedule", "precise_bn"):
        assert getattr(config.train, key) == getattr(common.train, key)


@pytest.mark.parametrize("mode", [None, *MODES])
@pytest.mark.parametrize("preset", presets())
def test_every_method_of_a_preset_makes_a_loss_and_survives_being_written(preset, mode):
    for method in methods():
        config = resolve(preset=preset, method=method, mode=mode)
        assert RunConfig.from_toml(config.to_toml()) == config
        loss = make_loss(config.loss, config.train)
        if hasattr(loss, "max_eps"):
            assert loss.max_eps == config.train.eps * config.train.eps_factor


def test_attacks_and_splits_are_the_papers():
    def loss(method: str, at: int):
        config = resolve(preset=SETTINGS[at], method=method)
        return make_loss(config.loss, config.train)

    for at, setting in enumerate(SETTINGS):
        assert loss("citrus", at).attack == PGD(steps=20, step_size=0.5, restarts=1)
        assert loss("citrus-si", at).pairing.include_self
        assert loss("pgd", at).attack == PGD(steps=10, step_size=0.25)
        for method in ("sabr", "staps"):
            assert loss(method, at).attack == PGD(steps=8, step_size=0.5)
        for method in ("taps", "staps"):
            taps = loss(method, at)
            assert (taps.steps, taps.scale, taps.link) == (20, 5, 0.5)
            assert taps.split == SPLIT[at]
        far = setting == "cifar10-2-255"
        for method in MIXED:
            mixed = loss(method, at)
            assert mixed.attack == (PGD(8, 0.25) if far else PGD(1, 10.0))
            assert mixed.attack_ratio == (2.1 if far else 1.0)
        assert [loss(m, at).universal.step_size for m in ("uat", "cw-uat")] == [0.25, 0.25]
        assert [loss(m, at).per_class for m in ("uat", "cw-uat")] == [False, True]
