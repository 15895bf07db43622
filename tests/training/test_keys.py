"""keys: every key has a meaning, and its type, default and presets are those of configurations."""

import json
from dataclasses import asdict

import pytest
from command_line import run, said
from configurations import refusal

from citrus_lirpa.training import config, keys

EVERY = {key.name: key for key in keys.keys()}


def test_every_key_of_every_configuration_has_a_meaning():
    for preset in config.presets():
        for method in config.methods():
            made = asdict(config.resolve(preset=preset, method=method))
            names = {f"{table}.{key}" for table, values in made.items() for key in values}
            assert names <= EVERY.keys()
    for key in EVERY.values():
        assert all(use.meaning.endswith(".") and "``" not in use.meaning for use in key.uses)
        assert key.summary and key.default


def test_a_default_is_what_a_configuration_without_the_key_gets(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        '[data]\nname = "digits"\n[model]\nname = "mlp"\n[loss]\nname = "ibp"\n'
        "[train]\neps = 0.1\nepochs = 3\n"
    )
    made = asdict(config.resolve(file=file))
    shown = {k: key.default for k, key in EVERY.items() if k.startswith(("data.", "train."))}
    given = {"data.name", "train.eps", "train.epochs"}
    for name, default in shown.items():
        table, _, key = name.partition(".")
        if name in given:
            assert default == "required"
        else:
            parsed = config.parse_override(f"{name}={default}")[1]
            assert (tuple(parsed) if default.startswith("[") else parsed) == made[table][key]


@pytest.mark.parametrize("name", ["train.ramp_length", "train.l1", "train.epochs", "data.crop"])
def test_presets_and_methods_set_what_is_said(name):
    table, _, field = name.partition(".")
    key = EVERY[name]
    for value, (presets,) in key.set_by["preset"].items():
        for preset in presets.split(", "):
            made = getattr(getattr(config.resolve(preset=preset), table), field)
            assert made == config.parse_override(f"{name}={value}")[1]
    assert name != "train.epochs" or "80" in key.set_by["method"]


def test_a_key_in_full():
    status, output = run("config", "train.batch_size")
    assert status == 0
    assert (
        output
        == """\
train.batch_size
  meaning  Images in a step.
  type     whole number, > 0
  default  256
  preset   128: cifar10-2-255, cifar10-8-255, tinyimagenet-1-255
  preset   64: digits, mnist-0.1, mnist-0.3
  method   256: ibp, crown-ibp, sabr, taps, staps, mtl-ibp, cc-ibp, exp-ibp with mnist-0.1,
           mnist-0.3
  method   100: colt with cifar10-2-255, mnist-0.1, mnist-0.3, tinyimagenet-1-255
  method   150: colt with cifar10-8-255
  mode     5: paper
"""
    )
    assert "allowed  smoothed, linear" in run("config", "train.schedule")[1]
    assert run("config", "loss.alpha")[1].count("meaning") == 2


def test_lists_and_json():
    status, output = run("config")
    assert status == 0 and len(output.splitlines()) == len(EVERY) + 1
    assert max(map(len, output.splitlines())) <= 110
    status, output = run("config", "train", "--json")
    found = json.loads(output[output.index("{\n") :])["keys"]
    assert [key["name"] for key in found] == [k for k in EVERY if k.startswith("train.")]
    assert "loss.tau_ratio" in run("config", "tau_ratio")[1]


def test_an_unknown_key_names_the_nearest():
    line = said(*run("config", "train.ramp_lenght"), 2)
    assert "unknown key 'train.ramp_lenght'; did you mean 'train.ramp_length'?" in line
    assert "unknown key 'x'" in refusal(keys.find, "x")
