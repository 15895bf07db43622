"""What the losses refuse: options that cannot be used, and batches."""

import math

import pytest
import torch
from reference import EPS, SHAPE, batch, every_loss, make, small_mlp, wrapped
from torch import nn

from citrus_lirpa.attacks import PGD
from citrus_lirpa.errors import InputError
from citrus_lirpa.losses import CcIbp, Citrus, CrownIbp, ExpIbp, Ibp, MtlIbp, Sabr, Taps, Uat
from citrus_lirpa.losses.cross_input import Groups

REFUSED = {
    "CROWN-IBP without ε": (lambda: CrownIbp(0.0), r"max_eps is 0\.0; expected the ε > 0"),
    "TAPS without ε": (lambda: Taps(-0.1), r"max_eps is -0\.1"),
    "TAPS at no ε": (lambda: Taps(math.nan), r"max_eps is nan"),
    "SABR's box": (lambda: Sabr(1.5), r"tau_ratio is 1\.5; expected a number in \(0, 1\]"),
    "STAPS's box": (lambda: Taps(0.1, tau_ratio=0.0), r"tau_ratio is 0\.0"),
    "link of 0": (lambda: Taps(0.1, link=0.0), r"link is 0\.0; expected a number in \(0, 1\]"),
    "an attack for no box": (lambda: Taps(0.1, attack=PGD()), r"give tau_ratio too"),
    "no latent steps": (lambda: Taps(0.1, steps=0), r"Taps\.steps is 0"),
    "no scale": (lambda: Taps(0.1, scale=0.0), r"scale is 0\.0; expected a number > 0"),
    "MTL-IBP of 0": (lambda: MtlIbp(0.0), r"alpha is 0\.0; expected a number in \(0, 1\]"),
    "CC-IBP over 1": (lambda: CcIbp(1.01), r"alpha is 1\.01"),
    "EXP-IBP of NaN": (lambda: ExpIbp(math.nan), r"alpha is nan"),
    "no attack radius": (lambda: MtlIbp(0.5, attack_ratio=0.0), r"attack_ratio is 0\.0; .*> 0"),
    "UAT standing still": (lambda: Uat(step_size=0.0), r"step_size is 0\.0; .*at most 2"),
    "UAT past the ball": (lambda: Uat(step_size=2.1), r"step_size is 2\.1"),
    "CITRUS's box of 0": (lambda: Citrus(0), r"tau_ratio is 0; expected .*\(0, 1\]"),
    "a reduction": (lambda: Citrus(reduction="median"), r"'median'.*sum, mean, max"),
    "bounds of CITRUS": (lambda: Citrus(method="inf"), r"'inf'.*ibp, crown-ibp, crown"),
    "bounds of IBP": (lambda: Ibp(method="inf"), r"'inf'.*ibp, crown-ibp, crown"),
    # whose bounds are detached
    "CITRUS without gradients": (lambda: Citrus(method="alpha-crown"), r"'alpha-crown'"),
    "IBP without gradients": (lambda: Ibp(method="alpha-crown"), r"'alpha-crown'"),
    "no function": (lambda: Sabr(0.5, attack="pgd"), r"the attack is 'pgd'; expected PGD\(\) or"),
    "CITRUS of no bounds": (lambda: Citrus(alpha=0.0), r"alpha is 0\.0"),
    "a pairing's name": (lambda: Citrus(pairing="groups"), r"pairing is 'groups'; .*Groups\(k\)"),
    "worst below 0": (lambda: Citrus(worst=-1), r"worst is -1; expected at least 0, a whole"),
    "sign steps beyond the end": (lambda: Citrus(sign_steps=1.5), r"sign_steps is 1\.5; .*0 to 1"),
    "universal below 0": (lambda: Citrus(universal=-2), r"universal is -2"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_options_are_refused_naming_the_value(case):
    make, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        make()


BAD_CALLS = {
    "label too high": (dict(y=[0, 1, 3]), r"labels range from 0 to 3; expected 0 to 2"),
    "label negative": (dict(y=[0, -1, 2]), r"labels range from -1 to 2"),
    "labels not integers": (dict(y=[0.0, 1.0, 2.0]), r"labels are torch\.float32"),
    "labels of 32 bits": (dict(y=torch.tensor([0, 1, 2], dtype=torch.int32)),
                          r"labels are torch\.int32"),
    "a label missing": (dict(y=[0, 1]), r"3 inputs but 2 labels"),
    "no inputs": (dict(x=torch.rand(0, *SHAPE), y=[]), r"0 inputs but 0 labels"),
    "pixels of 0 to 255": (dict(x=torch.full((3, *SHAPE), 255.0)), r"images range from 255 to 255, "
                           r"outside the valid range 0\.0 to 1\.0; pass pixels in \[0, 1\]"),
    "pixels below 0": (dict(x=torch.full((3, *SHAPE), -0.5)), r"images range from -0\.5 to -0\.5"),
    "NaN pixels": (dict(x=torch.full((3, *SHAPE), math.nan)), r"images range from nan to nan"),
    "negative ε": (dict(eps=-0.25), r"ε is -0\.25; expected a finite number >= 0"),
    "ε in a channel": (dict(eps=torch.tensor([0.1, -0.5]).view(2, 1, 1)), r"-0\.5(.|\n)*expected"),
    "NaN ε": (dict(eps=math.nan), r"ε is nan; expected a finite number >= 0"),
    "plain model": (dict(net=nn.Flatten()), r"got Flatten; wrap the model first: BoundedNet\("),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CALLS)
@every_loss
def test_bad_calls_are_refused_naming_the_value(name, case):
    changes, message = BAD_CALLS[case]
    call = dict(net=wrapped(small_mlp()), x=torch.rand(3, *SHAPE), y=[0, 1, 2], eps=EPS) | changes
    with pytest.raises(InputError, match=message):
        make(name)(**call | {"y": torch.as_tensor(call["y"])})


def test_batches_without_enough_partners_are_refused():
    net, (x, y) = wrapped(small_mlp()), batch()
    with pytest.raises(InputError, match=r"4 cyclic shifts need a batch of at least 5, got 3"):
        Citrus()(net, x[:3], y[:3], EPS)
    with pytest.raises(InputError, match=r"worst is 4, but each input has 3 boxes"):
        Citrus(worst=4, universal=1, pairing=Groups(3))(net, x, y, EPS)
    assert len(Citrus(worst=3, universal=1, pairing=Groups(3))(net, x, y, EPS).box) == 18


def test_images_at_the_ends_of_the_range_pass():
    x = torch.rand(3, *SHAPE).round() * (1 + 1e-6)  # rounding errors of a data pipeline
    assert math.isfinite(Ibp()(wrapped(small_mlp()), x, torch.arange(3), EPS).item())
    assert Ibp(clip=None)(wrapped(small_mlp()), 9 * x, torch.arange(3), EPS).item() > 0


def test_an_eps_in_grey_levels_is_warned_of_once():
    net, (x, y) = wrapped(small_mlp()), batch()
    with pytest.warns(
        UserWarning, match=r"more than the whole range of the inputs, 0 to 1: .*8 / 255"
    ) as seen:
        Ibp()(net, x, y, 8)
        Ibp()(net, x, y, 7)
    assert len(seen) == 1
    Ibp(clip=(0, 255))(net, x, y, 8)
    Ibp(norm=2)(net, x, y, 8)
