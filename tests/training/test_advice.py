"""advice: what is said of a training that cannot learn, and when nothing is said."""

import pytest
import torch
from command_line import run, sets

from citrus_lirpa import config
from citrus_lirpa.losses import Colt, CrossEntropy, Ibp
from citrus_lirpa.training.advice import ChanceWatch, short_ramp


def short(loss, *overrides: str, images: int = 1397) -> str | None:
    settings = config.resolve(preset="digits", overrides=overrides)
    return short_ramp(loss, settings, images)


def test_a_short_ramp_is_named_with_its_steps():
    assert short(Ibp(), "train.epochs=4") == (  # 1.2 epochs of 21 batches
        "ε reaches its target within 25 steps; below 200 networks often learn little or nothing: "
        "raise train.epochs (now 4) or train.ramp_length (now 1.2 epochs)"
    )
    assert "within 0 steps" in short(Ibp(), "train.ramp_length=0")


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.epochs=100",),
        ("train.epochs=4", "train.ramp_length=2", "train.batch_size=8"),
        ("train.epochs=4", "train.eps=0"),
        ("train.epochs=4", "train.init_from='other'"),
    ],
)
def test_long_ramps_and_trainings_without_one_get_no_warning(overrides):
    assert short(Ibp(), *overrides) is None


def test_losses_without_bounds_or_with_stages_need_no_ramp():
    assert short(CrossEntropy(), "train.epochs=4") is None
    assert short(Colt(), "train.epochs=4") is None
    assert short(torch.nn.Identity(), "train.epochs=4") is not None  # of the user: not known


def watched(labels, accuracies, epochs: int = 9) -> list[int]:
    """The epochs that the watch says something about."""
    watch = ChanceWatch(torch.tensor(labels), epochs)
    return [
        epoch
        for epoch, accuracy in enumerate(accuracies, 1)
        if watch({"epoch": epoch, "accuracy": accuracy}) is not None
    ]


def test_two_epochs_at_chance_are_said_once():
    balanced = list(range(10)) * 5
    assert watched(balanced, [0.1, 0.12, 0.1, 0.1]) == [2]
    assert watched(balanced, [0.1, 0.5, 0.6, 0.11, 0.1]) == [5]  # it collapsed
    assert watched(balanced, [0.1, 0.3, 0.1, 0.3]) == []
    assert watched(balanced, [0.5, 0.1], epochs=2) == [2]
    assert watched(balanced, [None, None, None], epochs=3) == []


def test_chance_is_the_share_of_the_largest_class():
    uneven = [0] * 8 + [1] * 2
    assert watched(uneven, [0.8, 0.8]) == [2]
    assert watched(uneven, [0.82, 0.82]) == []
    assert watched(list(range(200)), [0.02, 0.02]) == []


def test_the_command_warns_on_both_and_a_sound_recipe_does_not(tmp_path):
    few = ("--preset", "digits", "--method", "ibp", "--quiet")
    status, output = run("train", *few, *sets("train.epochs=3"), "--out", tmp_path / "short")
    assert status == 0
    warnings = [line for line in output.splitlines() if line.startswith("warning: ")]
    assert [line.split()[1:4] for line in warnings] == [
        ["ε", "reaches", "its"], ["the", "accuracy", "is"]
    ]  # fmt: skip
    long = sets("train.epochs=20", "train.ramp_length=10", "train.ramp_start=2")
    status, output = run("train", *few, *long, "--out", tmp_path / "long")
    assert status == 0 and "warning" not in output
