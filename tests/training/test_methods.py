"""config: which recipe --method, a file and the overrides select, and the keys it brought."""

import pytest
from configurations import COMPLETE, digits, from_file, refusal

from citrus_lirpa.errors import InputError
from citrus_lirpa.losses import LOSSES
from citrus_lirpa.training.config import RunConfig, methods, resolve

ON_MNIST = 'preset = "mnist-0.1"\n'


def mnist(method: str, *overrides: str) -> RunConfig:
    return resolve(preset="mnist-0.1", method=method, overrides=overrides)


# -- which recipe -------------------------------------------------------------------


def test_citrus_is_the_default_and_each_loss_a_method(tmp_path):
    assert set(methods()) == {*LOSSES, "citrus-si"}
    assert digits() == digits(method="citrus") == from_file(tmp_path, 'preset = "digits"')


@pytest.mark.parametrize("method", LOSSES)
def test_every_way_to_name_a_loss_selects_its_recipe(tmp_path, method):
    expected = mnist(method)
    assert resolve(preset="mnist-0.1", overrides=[f"loss.name={method}"]) == expected
    assert from_file(tmp_path, f'{ON_MNIST}method = "{method}"') == expected
    assert from_file(tmp_path, f'{ON_MNIST}[loss]\nname = "{method}"') == expected
    assert from_file(tmp_path, ON_MNIST, method=method) == expected
    assert from_file(tmp_path, ON_MNIST, f"loss.name={method}") == expected


def test_a_method_that_is_no_loss_is_named_as_a_method(tmp_path):
    config = from_file(tmp_path, f'{ON_MNIST}method = "citrus-si"')
    assert config == mnist("citrus-si")
    assert config.loss == {"name": "citrus", "include_self": True, "tau_ratio": 0.4}
    assert "unknown loss.name 'citrus-si'" in refusal(digits, "loss.name=citrus-si")


@pytest.mark.parametrize(
    "text", ['method = "taps"', '[loss]\nname = "taps"', 'method = "taps"\n[loss]\nname = "taps"']
)
def test_the_command_line_goes_before_the_file(tmp_path, text):
    assert from_file(tmp_path, ON_MNIST + text) == mnist("taps")
    assert from_file(tmp_path, ON_MNIST + text, method="sabr") == mnist("sabr")
    assert from_file(tmp_path, ON_MNIST + text, "loss.name=sabr") == mnist("sabr")


def test_an_override_of_the_loss_alone_keeps_the_recipe_of_the_method_beside_it():
    config = digits("loss.name=ibp", method="pgd")
    assert config.loss == {"name": "ibp"} and config.train == digits(method="pgd").train


def test_what_a_file_says_itself_goes_before_the_recipe_and_overrides_before_both(tmp_path):
    text = f'{ON_MNIST}method = "sabr"\n[loss]\ntau_ratio = 0.9\n[train]\nl1 = 0.5\neps_factor = 3'
    config = from_file(tmp_path, text)
    assert config == mnist("sabr", "loss.tau_ratio=0.9", "train.l1=0.5", "train.eps_factor=3")
    config = from_file(tmp_path, text, "loss.tau_ratio=0.8", "train.l1=0.25", method="staps")
    assert config == mnist("staps", "loss.tau_ratio=0.8", "train.l1=0.25", "train.eps_factor=3")


def test_another_method_leaves_the_options_of_the_files_own(tmp_path):
    text = f"{ON_MNIST}[loss]\ntau_ratio = 0.9\npartners = 2"
    for way in ({"method": "sabr"}, {"overrides": ["loss.name=sabr"]}):
        overrides = way.pop("overrides", ())
        config = from_file(tmp_path, text, *overrides, **way)
        assert config.loss == {"name": "sabr", "tau_ratio": 0.9}
    assert from_file(tmp_path, text, method="ibp").loss == {"name": "ibp"}
    # but no misspelt one
    misspelt = text.replace("partners", "partnrs")
    assert "'partnrs'" in refusal(from_file, tmp_path, misspelt, method="sabr")


def test_a_file_that_contradicts_itself(tmp_path):
    message = refusal(from_file, tmp_path, f'{ON_MNIST}method = "sabr"\n[loss]\nname = "ibp"')
    assert "'sabr'" in message and "'ibp'" in message
    text = f'{ON_MNIST}method = "citrus-si"\n[loss]\nname = "citrus"'  # which is no contradiction
    assert from_file(tmp_path, text) == mnist("citrus-si")


@pytest.mark.parametrize("method", ["sabr", "taps"])
def test_epochs_alone_rescale_the_schedule_of_the_method(method):
    preset = "tinyimagenet-1-255"
    whole = resolve(preset=preset, method=method).train
    tenth = resolve(
        preset=preset, method=method, overrides=[f"train.epochs={whole.epochs // 10}"]
    ).train
    assert tenth.milestones == tuple(m / 10 for m in whole.milestones)
    assert (tenth.ramp_start, tenth.ramp_length) == (1.1, 8)


# -- a file without a preset --------------------------------------------------------


def test_a_method_on_a_plain_file_keeps_the_options_that_both_losses_know(tmp_path):
    text = COMPLETE.replace("tau_ratio = 0.5", "tau_ratio = 0.5\nattack_steps = 3\npartners = 2")
    plain = from_file(tmp_path, text)
    sabr = from_file(tmp_path, text, method="sabr")
    assert sabr.loss == {"name": "sabr", "tau_ratio": 0.5, "attack_steps": 3}
    assert (sabr.train, sabr.data, sabr.model) == (plain.train, plain.data, plain.model)
    both = from_file(tmp_path, text, method="citrus-si")
    assert both.loss == {**plain.loss, "include_self": True}
    assert from_file(tmp_path, text, method="ibp").loss == {"name": "ibp"}
    assert "loss.alpha is missing" in refusal(from_file, tmp_path, text, method="mtl-ibp")
    mixed = from_file(tmp_path, text, "loss.alpha=0.1", method="mtl-ibp")
    assert mixed.loss == {"name": "mtl-ibp", "attack_steps": 3, "alpha": 0.1}


def test_a_method_on_the_configuration_of_a_run_says_what_holds_for_it_everywhere(tmp_path):
    written = digits().to_toml()
    pgd = from_file(tmp_path, written, method="pgd")
    assert pgd == digits(method="pgd")  # no ramp, no regulariser, PyTorch's initialisation
    assert from_file(tmp_path, written) == digits()
    # the loss alone is one value, and no recipe
    assert from_file(tmp_path, written, "loss.name=pgd").train == digits().train


def test_a_plain_file_may_name_its_method(tmp_path):
    plain = COMPLETE.replace('name = "citrus"', "").replace("tau_ratio = 0.5", "")
    pgd = from_file(tmp_path, f'method = "pgd"\n{plain}')
    assert (pgd.loss, pgd.train.shi) == ({"name": "pgd"}, 0)
    pgd = from_file(tmp_path, f'method = "pgd"\n{plain}shi = 0.25\n')
    assert (pgd.train.shi, pgd.train.initialisation) == (0.25, "default")


# -- refused ------------------------------------------------------------------------


def test_unknown_method(tmp_path):
    for call in (
        lambda: digits(method="sbr"),
        lambda: from_file(tmp_path, 'preset = "digits"\nmethod = "sbr"'),
        lambda: from_file(tmp_path, COMPLETE, method="sbr"),
    ):
        assert "unknown method 'sbr'; did you mean 'sabr'?" in refusal(call)
    assert "unknown method ''" in refusal(digits, method="")


@pytest.mark.parametrize("value", ["3", "false", "[]", '["sabr"]', "{a = 1}", "1979-05-27", '""'])
@pytest.mark.parametrize("key", ["method", "preset"])
def test_a_method_or_preset_that_is_no_name(tmp_path, key, value):
    for rest in ('\npreset = "digits"' if key == "method" else "", COMPLETE):
        assert f"unknown {key}" in refusal(from_file, tmp_path, f"{key} = {value}{rest}")


@pytest.mark.parametrize("name", ["3", "false", "[]", "{a = 1}", '""', '"sab"'])
def test_a_loss_that_is_no_name(tmp_path, name):
    text = f'preset = "digits"\n[loss]\nname = {name}'
    assert "unknown loss.name" in refusal(from_file, tmp_path, text)
    assert "unknown loss.name" in refusal(digits, f"loss.name={name}")


@pytest.mark.parametrize("rest", ["", 'preset = "digits"\n', 'preset = "digits"\nmethod = "ibp"\n'])
def test_recipes_are_no_table_of_a_user(tmp_path, rest):
    text = rest + "[methods]\nibp = { train = { l1 = 1.0 } }\n"
    assert "unknown table 'methods'" in refusal(from_file, tmp_path, text)
    assert "unknown table 'methods'" in refusal(digits, "methods.ibp=3")
    assert "unknown table 'method'" in refusal(digits, "method.name=ibp")


# -- eps_factor and init_from -------------------------------------------------------


def test_configurations_of_earlier_runs_are_read_as_they_were_meant():
    new = digits()
    old = "\n".join(
        line
        for line in new.to_toml().splitlines()
        if not line.startswith(("eps_factor", "init_from"))
    )
    assert old != new.to_toml() and RunConfig.from_toml(old) == new
    assert (new.train.eps_factor, new.train.init_from, new.train.max_eps) == (1, "", new.train.eps)


def test_eps_factor():
    train = digits("train.eps=0.3", "train.eps_factor=4/3").train
    assert (train.eps, train.max_eps) == (0.3, pytest.approx(0.4))
    assert digits("train.eps_factor=10").train.max_eps == 1  # as far as pixels go
    assert digits("train.eps=0", "train.eps_factor=1e9").train.max_eps == 0


@pytest.mark.parametrize("eps", ["0.1", "0", "1"])
@pytest.mark.parametrize("factor", ["0", "-1", "nan", "inf"])
def test_eps_factor_out_of_range(eps, factor):
    message = refusal(digits, f"train.eps={eps}", f"train.eps_factor={factor}")
    assert f"train.eps_factor is {factor}" in message


def test_eps_factor_too_large_for_the_eps():
    message = refusal(digits, "train.eps_factor=11")
    assert "train.eps_factor is 11" in message and "1.1" in message
    assert "train.eps_factor" in refusal(mnist, "taps", "train.eps=0.6")  # the recipe's own


@pytest.mark.parametrize("method", methods())
def test_training_without_eps(method):
    """Losses that measure ε by the largest refuse none; the others train on clean inputs."""
    if method in ("crown-ibp", "taps", "staps", "smoothadv"):
        message = refusal(digits, "train.eps=0", method=method, error=InputError)
        assert "is 0.0" in message and "train.eps" in message
    else:
        assert digits("train.eps=0", method=method).train.max_eps == 0


def test_init_from_is_a_path():
    assert digits("train.init_from=runs/a").train.init_from == "runs/a"
    assert "train.init_from is 3" in refusal(digits, "train.init_from=3")
