"""Studies: what a file means, which values are tried, and what is refused."""

import pytest
from configurations import refusal

from citrus_lirpa.runs.tuning import space, study
from citrus_lirpa.runs.tuning.space import Choice, Range
from citrus_lirpa.training import config
from citrus_lirpa.training.config import RunConfig


def test_what_a_file_means(write):
    more = """
    [space]
    "loss.tau_ratio" = { low = 0.2, high = "1/2" }
    train.epochs = { low = 2, high = 4, whole = true }
    [search]
    method = "ibp"
    limit = 100
    [least]
    standard = 0.5
    [front]
    seeds = [3, 5]
    method = "crown"
    clip = true
    """
    head = 'method = "sabr"\nseed = 7\nname = "other"\nstop_at = [0.25]'
    found = study.read(write(9, head, more, **{'"train.epochs" = 4\n': ""}))
    assert (found.name, found.trials, found.seed, found.stop_at) == ("other", 9, 7, (0.25,))
    assert found.fixed["method"] == "sabr" and found.config({}).train.seed == 7
    assert found.space["loss.tau_ratio"] == Range(low=0.2, high=0.5)
    assert found.space["train.epochs"] == Range(low=2, high=4, whole=True)
    assert found.space["train.lr"] == space.shipped("sabr")["train.lr"]
    assert (found.protocol.method, found.protocol.relational) == ("ibp", "none")
    assert found.protocol.held_out and found.protocol.limit == 100
    assert found.least.standard == 0.5 and found.least.ucert == 0
    assert found.front.seeds == (3, 5) and found.front.protocol.clip == (0, 1)
    assert found.front.protocol.method == "crown" and not found.front.protocol.held_out
    assert found.storage == str(found.folder / "study.journal")


def test_a_fixed_value_is_not_varied(write, small):
    assert "train.lr" in small.space
    fixed = study.read(write(**{"[set]": '[set]\n"train.lr" = 3e-4'}))
    assert "train.lr" not in fixed.space and fixed.config({}).train.lr == 3e-4


@pytest.mark.parametrize("preset", ["digits", "mnist-0.3", "cifar10-8-255"])
@pytest.mark.parametrize("method", [m for m in config.methods() if m != "denoiser"])
def test_every_method_has_a_space_that_its_trainings_take(write, preset, method):
    file = write(
        head=f'method = "{method}"',
        **{
            '"digits"': f'"{preset}"',
            '"model.hidden" = [8]\n': "",
            '"loss.attack_steps" = 1\n': "",
        },
    )
    found = study.read(file)  # which tries the ends of all ranges
    recipe = found.recipe()
    assert recipe.keys() == found.space.keys()
    assert all(parameter.near(recipe[key]) == recipe[key] for key, parameter in found.space.items())
    assert isinstance(found.config(recipe), RunConfig)


def test_the_recipe_is_that_of_the_preset(small):
    assert small.recipe() == {
        "train.lr": 1e-3, "train.l1": 1e-5, "train.ramp_length": pytest.approx(0.3),
        "train.eps_factor": 1, "train.shi": 0.5, "loss.tau_ratio": 0.6, "loss.reduction": "sum",
        "loss.k": 2, "loss.worst": 0, "loss.universal": 0, "loss.alpha": 1,
    }  # fmt: skip


def test_shares_of_the_epochs(write):
    more = '[space]\n"train.epochs" = { low = 2, high = 8, whole = true }'
    found = study.read(write(more=more, **{'"train.epochs" = 4\n': ""}))
    train = found.config({"train.epochs": 8, "train.ramp_length": 0.25}).train
    assert (train.epochs, train.ramp_length) == (8, 2.0)


def test_a_range_and_a_choice():
    assert Range(low=1, high=4, whole=True).near(2.6) == 3
    assert Range(low=0.1, high=0.5).near(7) == 0.5 and Range(low=0, high=1).near("x") is None
    lists = Choice(choices=[[1, 2], [3], 0.5, "a"])
    assert lists.texts() == ("[1, 2]", "[3]", "0.5", '"a"')
    assert [space.value_of(text) for text in lists.texts()] == [[1, 2], [3], 0.5, "a"]
    assert lists.near([3]) == [3] and lists.near([4]) is None


@pytest.mark.parametrize(
    ("head", "more", "words"),
    [
        ("method = 'sabre'", "", "unknown method 'sabre'; did you mean 'sabr'"),
        ("trial = 4", "", "unknown key 'trial'"),
        ("seed = -1", "", ": seed is -1; expected a number >= 0"),
        ("stop_at = [1.0]", "", "stop_at is [1.0]; expected shares"),
        ("stop_at = [2]", "", ": stop_at.0 is 2; expected a number <= 1"),
        ("name = '../x'", "", "name is '../x'; expected letters"),
        ("space = 1", "", "'space' is not a table"),
        ("", '[space]\n"train.lr" = 1', "train.lr in [space] is 1; expected { low ="),
        ("", '[space]\n"train.lr" = { low = 1 }', "train.lr in [space]: range.high is missing"),
        ("", '[space]\n"train.lr" = { low = 2, high = 1 }', "from 2 to 1; expected low < high"),
        ("", '[space]\n"train.lr" = { low = 0, high = 1, log = true }', "expected a number > 0"),
        ("", '[space]\n"train.lr" = { choices = [] }', "choices is []"),
        ("", '[space]\n"loss.tau" = { low = 0.1, high = 1 }', "[space]: unknown key in loss (of"),
        ("", '[space]\n"loss.worst" = { low = 0.5, high = 1.5 }', "expected a whole number"),
        ("", '[space]\n"train.epochs" = { low = 1, high = 3 }', "stands in [set] and in [space]"),
        ("", '[space]\nlr = { low = 0.1, high = 1 }', "malformed; expected TABLE.KEY"),
        ("", "[search]\nmethd = 'ibp'", "unknown key in [search] 'methd'; did you mean 'method'"),
        ("", "[search]\nmethod = 'abc'", "[search]: unknown method 'abc'"),
        ("", "[search]\nheld-out = false", "a search on test images would fit them"),
        ("", "[search]\nclip = 3", "clip is 3 in [search]; expected true or false"),
        (
            "", "[search]\ngroup-size = 400",
            "[search]: group size of 300 images is 400; expected 2 to 300",
        ),
        ("", "[search]\nlimit = 'x'", "[search]: limit is 'x'"),
        ("", "[least]\nucert = 97", "least.ucert is 97; expected a number <= 1"),
        ("", "[front]\nseeds = []", "front.seeds is []; expected more entries"),
        ("", "[front]\nseeds = [1, 1]", "seeds is [1, 1] in [front]; expected each seed once"),
        ("", "[set.data]", "data.held_out"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(write, head, more, words):
    file = write(head=head, more=more)
    if more == "[set.data]":
        file.write_text(file.read_text().replace('"data.held_out" = 300', "").replace(more, ""))
    message = refusal(study.read, file)
    assert words in message and message.startswith(str(file)) and len(message) < 400


def test_files_that_cannot_be_read(tmp_path):
    missing = refusal(study.read, tmp_path / "none.toml")
    assert missing == f"cannot read the study {tmp_path / 'none.toml'}: No such file or directory"
    (tmp_path / "x.toml").write_bytes(b"\xff")
    assert "cannot read the study" in refusal(study.read, tmp_path / "x.toml")
    (tmp_path / "x.toml").write_text("preset = 'digits'")
    assert refusal(study.read, tmp_path / "x.toml").endswith("x.toml: trials is missing")
    (tmp_path / "x.toml").write_text("preset =")
    assert "not valid TOML" in refusal(study.read, tmp_path / "x.toml")
    (tmp_path / "x.toml").write_text('preset = "digits"')
    assert "trials is missing" in refusal(study.read, tmp_path / "x.toml")
