"""`--mode paper` beside Algorithm 1 written out: batches of five, ordered pairs, steps of Adam."""

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from reference import algorithm_1

from citrus_lirpa import data
from citrus_lirpa.training import setup
from citrus_lirpa.training.batches import Batches
from citrus_lirpa.training.config import resolve
from citrus_lirpa.training.loop import fit

EPS, TAU_RATIO, LR, STEPS = 0.1, 0.6, 0.01, 4
#: Three epochs of four steps, in which ε is 0, rises, and stays; without the regularisers of Shi
#: et al. and of L1, which Algorithm 1 does not have.
SETTINGS = (
    f"train.eps={EPS}", "train.epochs=3", "train.ramp_start=2", "train.ramp_length=1",
    f"train.lr={LR}", "train.milestones=[2]", "train.shi=0", "train.l1=0",
    f"data.limit={5 * STEPS}", "model.hidden=[8, 6]",
)  # fmt: skip


def literal_training(model, batches) -> list[float]:
    """Train in place; return the loss of each step."""
    optimiser, losses = torch.optim.Adam(model.parameters(), lr=LR), []
    for step, (x, y) in enumerate(batches):
        assert len(x) == 5
        for group in optimiser.param_groups:
            group["lr"] = LR if step < 2 * STEPS else 0.2 * LR
        # the smoothed ramp: its first quarter, one step, is a quartic that ends with slope 4/13
        share = [0.0, 1 / 13, 5 / 13, 9 / 13][step - STEPS] if STEPS <= step < 2 * STEPS else 1.0
        eps = 0.0 if step < STEPS else share * EPS
        if eps == 0:
            loss = F.cross_entropy(model(x), y)
        else:
            pairs = algorithm_1(
                model, x, y, lambda i: [j for j in range(5) if j != i], eps, TAU_RATIO
            )
            assert pairs.shape == (5, 4)
            loss = pairs.sum() / 5
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def both():
    """Weights and the losses of each epoch: of a training in paper mode, and written out."""
    images = data.load("digits", train=True, data_dir=Path("none"))
    config = resolve(preset="digits", mode="paper", overrides=SETTINGS)
    assert config.loss["tau_ratio"] == TAU_RATIO
    net, loss = setup.build(config, torch.device("cpu"))
    model = copy.deepcopy(net.module).train()
    state = torch.get_rng_state()
    part = data.Split(images.images[: 5 * STEPS], images.labels[: 5 * STEPS])
    batches = Batches(part, config, torch.device("cpu"))
    records = fit(net, loss, images, config).records
    torch.set_rng_state(state)
    losses = literal_training(model, (batches[step] for step in range(3 * STEPS)))
    return net.module, records, model, losses


def test_losses_are_those_of_algorithm_1(both):
    _, records, _, losses = both
    assert len(losses) == 3 * STEPS
    for record, begin in zip(records, range(0, len(losses), STEPS), strict=True):
        mean = math.fsum(losses[begin : begin + STEPS]) / STEPS
        assert record["loss"] == pytest.approx(mean, rel=1e-5)


def test_so_are_the_weights_at_the_end(both):
    module, _, model, _ = both
    torch.testing.assert_close(module.state_dict(), model.state_dict(), rtol=1e-4, atol=1e-5)
