"""config: presets against the recipes, overrides, modes, files, and everything refused."""

import contextlib
import dataclasses

import pytest
from configurations import COMPLETE, digits, from_file, refusal

from citrus_lirpa.errors import ConfigError, InputError
from citrus_lirpa.losses.cross_input import Groups, Shifts
from citrus_lirpa.training import checkpoint
from citrus_lirpa.training.config import RunConfig, make_loss, presets, resolve
from citrus_lirpa.training.tables import DataConfig

# Data set, crop and ε of the recipes, copied by hand; test_recipes has what methods differ in.
SETTINGS = {
    "mnist-0.1": ("mnist", 0, 0.1),
    "mnist-0.3": ("mnist", 0, 0.3),
    "cifar10-2-255": ("cifar10", 0, 2 / 255),
    "cifar10-8-255": ("cifar10", 0, 8 / 255),
    "tinyimagenet-1-255": ("tinyimagenet", 56, 1 / 255),
}


# -- presets ------------------------------------------------------------------------


def test_every_preset_is_checked_here():
    assert presets() == sorted([*SETTINGS, "digits"])


@pytest.mark.parametrize("name", SETTINGS)
def test_preset_is_the_setting_of_the_recipes(name):
    data, crop, eps = SETTINGS[name]
    config = resolve(preset=name)
    train = config.train
    assert config.data == DataConfig(data, crop=crop)
    assert (config.model, train.eps) == ({"name": "cnn7"}, eps)
    # what the recipes have in common
    assert (train.lr, train.lr_factor, train.grad_clip) == (5e-4, 0.2, 10)
    assert train.schedule == "smoothed"


# -- overrides ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.name=mnist", "mnist"),
        ('data.name="mnist"', "mnist"),
        (" data.name = mnist ", "mnist"),
        ("data.limit=100", 100),
        ("train.schedule=linear", "linear"),
        ("train.epochs=7", 7),
        ("train.lr=1e-3", 1e-3),
        ("train.lr=1", 1.0),
        ("train.eps=8/255", 8 / 255),
        ('train.eps="8/255"', 8 / 255),
        ("train.precise_bn=true", True),
        ("train.milestones=[1, 2.5, '1/2']", (1.0, 2.5, 0.5)),
        ("train.milestones=[]", ()),
        ("model.hidden=[4, 5]", (4, 5)),
        ("loss.include_self=true", True),
        ("loss.partners=2", 2),
        ("loss.tau_ratio=1/4", 0.25),
        ("loss.reduction=max", "max"),
    ],
)
def test_override_of_every_type(override, expected):
    table, field = override.partition("=")[0].strip().split(".")
    values = dataclasses.asdict(digits(override))[table]
    assert values[field] == expected
    assert type(values[field]) is type(expected)


def test_last_override_wins_and_the_rest_stays():
    config = digits("train.lr=1", "train.lr=2")
    assert config == dataclasses.replace(
        digits(), train=dataclasses.replace(digits().train, lr=2.0)
    )


@pytest.mark.parametrize("override", ["train.eps", "eps=3", "a.b.c=1", "=3", "", "train=1"])
def test_malformed_override(override):
    assert f"'{override}'" in refusal(digits, override)
    assert "table.key=value" in refusal(digits, override)


@pytest.mark.parametrize(
    ("override", "value", "nearest"),
    [
        ("trian.eps=0.1", "trian", "train"),
        ("train.esp=0.1", "esp", "eps"),
        ("data.nmae=mnist", "nmae", "name"),
        ("model.hiden=[3]", "hiden", "hidden"),
        ("loss.tau_rato=0.5", "tau_rato", "tau_ratio"),
        ("data.name=mnst", "mnst", "mnist"),
        ("model.name=cnn", "cnn", "cnn7"),
        ("loss.name=citris", "citris", "citrus"),
        ("loss.pairing=group", "group", "groups"),
        ("train.schedule=lineer", "lineer", "linear"),
        ("train.initialisation=shii", "shii", "shi"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest(override, value, nearest):
    message = refusal(digits, override)
    assert f"'{value}'" in message
    assert f"did you mean '{nearest}'?" in message


def test_unknown_preset_and_mode():
    assert "did you mean 'digits'?" in refusal(resolve, preset="digts")
    assert "did you mean 'paper'?" in refusal(digits, mode="papr")
    assert "citrus" in refusal(digits, "loss.name=3")  # nothing is near: all are listed


# -- wrong values -------------------------------------------------------------------


@pytest.mark.parametrize(
    "override",
    ["train.epochs=1.5", "train.precise_bn=1", "train.milestones=[true]", "train.lr=fast",
     "data.name=3", "data.limit=1/2", "model.hidden=100", "model.hidden=[1.5]",
     "loss.partners=4.0", "loss.include_self=yes", "loss.tau_ratio={a=1}"],
)  # fmt: skip
def test_wrong_type(override):
    assert override.partition("=")[0] in refusal(digits, override)


def test_padding_of_the_data_set_or_of_the_configuration():
    def pad(*overrides):
        return checkpoint.data_spec(digits(*overrides)).pad

    assert (pad(), pad("data.pad=-1"), pad("data.pad=2")) == (0, 0, 2)
    cifar10 = resolve(preset="cifar10-2-255", overrides=["data.pad=0"])
    assert checkpoint.data_spec(cifar10).pad == 0
    with pytest.raises(ConfigError, match="data.crop is 6 and data.pad 1; .*set one of the two"):
        digits("data.crop=6", "data.pad=1")


@pytest.mark.parametrize(
    "override",
    [
        "train.epochs=0", "train.batch_size=0", "train.lr=0", "train.lr=nan", "train.lr_factor=-1",
        "train.grad_clip=0", "train.eps=-0.1", "train.eps=8", "train.eps=nan", "train.eps=inf",
        "train.ramp_start=0", "train.ramp_length=-1", "train.l1=-1", "train.shi=nan",
        "train.seed=-1", "train.threads=-1", "data.limit=-3",
        "data.held_out=-1", "data.pad=-2",
    ],
)  # fmt: skip
def test_value_out_of_range(override):
    key, _, value = override.partition("=")
    message = refusal(digits, override)
    assert f"{key} is {value}" in message


@pytest.mark.parametrize(
    "override",
    ["loss.tau_ratio=1.5", "loss.tau_ratio=0", "loss.reduction=median", "loss.partners=0",
     "loss.attack_steps=-1", "loss.method=crwn", "loss.method=alpha-crown"],
)  # fmt: skip
def test_loss_is_checked_before_anything_is_trained(override):
    assert override.partition("=")[2] in refusal(digits, override, error=InputError)


@pytest.mark.parametrize(
    "line", ['name = "digits"', 'name = "mlp"', "tau_ratio = 0.5", "eps = 0.1", "epochs = 3"]
)
def test_missing_key(line):
    message = refusal(RunConfig.from_toml, COMPLETE.replace(line, ""))
    assert line.split()[0] in message
    RunConfig.from_toml(COMPLETE)  # complete it is accepted


@pytest.mark.parametrize("both", [{}, {"preset": "digits", "file": "x.toml"}])
def test_preset_or_file(both):
    assert "either" in refusal(resolve, **both)


# -- modes, losses, epochs ----------------------------------------------------------


def test_modes():
    paper, large = digits(mode="paper"), digits(mode="large")
    assert (paper.train.batch_size, paper.train.precise_bn) == (5, True)
    assert (large.train.batch_size, large.train.precise_bn) == (64, False)  # the preset's
    assert make_loss(paper.loss, paper.train).pairing == Groups(5)
    assert make_loss(large.loss, large.train).pairing == Shifts(4)
    assert digits("train.batch_size=10", mode="paper").train.batch_size == 10
    fast = digits(mode="fast")
    loss = make_loss(fast.loss, fast.train)
    assert (fast.train.batch_size, loss.pairing, loss.sign_steps) == (64, Shifts(2), 1)
    assert make_loss(paper.loss, paper.train).sign_steps == 0
    assert digits("loss.name=ibp", mode="fast").loss == {"name": "ibp"}


def test_another_loss_drops_the_options_it_does_not_know():
    assert digits("loss.name=ibp").loss == {"name": "ibp"}
    assert digits("loss.name=ibp", mode="paper").loss == {"name": "ibp"}
    assert digits("loss.name=ibp", mode="paper").train.batch_size == 5
    assert "tau_ratio" in refusal(digits, "loss.name=ibp", "loss.tau_ratio=0.5")
    assert digits("model.hidden=[3]", "model.name=mlp").model["hidden"] == (3,)


def test_epochs_alone_rescale_the_schedule():
    whole, half = digits().train, digits("train.epochs=50").train
    assert (whole.epochs, whole.milestones) == (100, (75, 90))
    assert (whole.ramp_start, whole.ramp_length) == (2, 30)
    assert half.milestones == (37.5, 45)
    assert (half.ramp_start, half.ramp_length) == (1.5, 15)
    assert digits("train.epochs=100").train == whole


@pytest.mark.parametrize("given", ["milestones=[5]", "ramp_start=3", "ramp_length=4"])
def test_of_a_schedule_what_is_given_with_the_epochs_is_taken_as_it_stands(given):
    key = given.partition("=")[0]
    train = digits("train.epochs=30", f"train.{given}").train
    mine = {key: getattr(digits(f"train.{given}").train, key)}
    assert train == dataclasses.replace(digits("train.epochs=30").train, **mine)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.epochs=10", "train.ramp_length=30"], ["train.epochs = 10", "until epoch 30"]),
        (["train.ramp_start=99"], ["ε would not reach its target", "train.ramp_start = 99"]),
        (["train.milestones=[-5]"], ["train.milestones is [-5.0]", "epochs > 0"]),
    ],
)
def test_a_schedule_that_would_not_reach_its_end_is_refused(overrides, words):
    line = refusal(digits, *overrides)
    assert all(word in line for word in words)


def test_a_file_may_be_named_by_a_string_and_overrides_may_not(tmp_path):
    (tmp_path / "mine.toml").write_text('preset = "digits"\n')
    assert resolve(file=str(tmp_path / "mine.toml")) == digits()
    with pytest.raises(ConfigError, match="overrides is 'train.epochs=3'; expected a list"):
        resolve(preset="digits", overrides="train.epochs=3")


def test_a_schedule_without_a_target_may_be_any():
    assert digits("train.eps=0", "train.ramp_start=99").train.ramp_start == 99


# -- files --------------------------------------------------------------------------


def test_file_alone_and_with_overrides(tmp_path):
    config = from_file(tmp_path, COMPLETE, "train.lr=1", "model.hidden=[7]")
    assert (config.train.eps, config.train.lr, config.model["hidden"]) == (0.1, 1.0, (7,))
    assert config.loss == {"name": "citrus", "tau_ratio": 0.5}


def test_file_on_top_of_a_preset(tmp_path):
    config = from_file(tmp_path, 'preset = "digits"\n[train]\nlr = 1.0\n[data]\nlimit = 9\n')
    expected = digits("train.lr=1", "data.limit=9")
    assert config == expected != digits()
    assert "did you mean 'digits'?" in refusal(from_file, tmp_path, 'preset = "digts"')


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"[train\n", "not valid TOML"), (b"\xff\xfe", "cannot read"), (b"", "data.name"),
     (b"[data]\nname='digits'\n[extra]\na=1", "extra")],
)  # fmt: skip
def test_unusable_file(tmp_path, content, said):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    assert said in refusal(resolve, file=path)


@pytest.mark.parametrize(
    ("text", "overrides"),
    [("train = 3", ()), ("loss = 3", ()), ("data = 3", ("data.limit=3",)),
     ("model = 3", ("model.name=mlp",)), ('preset = "digits"\ntrain = 3', ()),
     ('preset = "digits"\n[train]\nepochs = "x"', ("train.lr=3",))],
)  # fmt: skip
def test_table_that_is_none(tmp_path, text, overrides):
    refusal(from_file, tmp_path, text, *overrides, mode="paper")


def test_wrong_epochs_in_the_file_that_are_overridden(tmp_path):
    """A refusal or the override, but no accident."""
    text = COMPLETE.replace("epochs = 3", 'epochs = "three"')
    with contextlib.suppress(ConfigError):
        assert from_file(tmp_path, text, "train.epochs=5").train.epochs == 5
