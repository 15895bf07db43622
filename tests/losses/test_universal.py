"""Perturbations that losses keep from batch to batch."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from reference import EPS, MODELS, SHAPE, batch, gradients, model_names, small_mlp, wrapped

from citrus_lirpa.losses import LOSSES, Citrus, Uat


def kept(loss):
    """The universal perturbations of a loss, as shares of their radius."""
    return loss.universal.shares.detach().clone()


# ------------------------------------------------------------------------- written out


@model_names
@pytest.mark.parametrize("per_class", [False, True])
def test_universal_training_step_by_step(name, per_class, double):
    """Three batches, each one backward pass for the weights and for δ; δ clipped to the ball."""
    model, batches = MODELS[name](), [batch(6), batch(4), batch(7)]
    net, literal = wrapped(model), copy.deepcopy(model).train()
    batches[1][1][:] = torch.tensor([0, 1, 0, 1])  # one without the third class
    torch.manual_seed(4)
    delta = torch.empty(3 if per_class else 1, *SHAPE).uniform_(-1, 1).sign() * EPS
    torch.manual_seed(4)
    loss = Uat(per_class=per_class, step_size=0.75)
    for x, y in batches:
        delta = delta.detach().requires_grad_()
        points = [x[i] + delta[int(y[i]) if per_class else 0] for i in range(len(x))]
        total = F.cross_entropy(literal(torch.stack(points).clamp(0, 1)), y)
        literal.zero_grad()
        total.backward()

        terms = loss(net, x, y, EPS)
        torch.testing.assert_close((terms.total, terms.perturbations), (total, delta))
        model.zero_grad()
        terms.backward()
        delta = (delta + 0.75 * EPS * delta.grad.sign()).detach().clamp(-EPS, EPS)
        torch.testing.assert_close(kept(loss) * EPS, delta)
        for ours, theirs in zip(model.parameters(), literal.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
            ours.data -= 0.1 * ours.grad
            theirs.data -= 0.1 * theirs.grad
    for norm, other in zip(model, literal, strict=True):
        if hasattr(norm, "running_var"):
            torch.testing.assert_close(norm.running_var, other.running_var)


# -------------------------------------------------------------------------- their steps


def every_kind():
    return {
        "uat": Uat(),
        "cw-uat": Uat(per_class=True),
        "citrus": LOSSES["citrus"](EPS, tau_ratio=0.4, universal=2, attack_steps=2),
    }


@pytest.mark.parametrize("kind", every_kind())
def test_they_move_once_with_each_backward_pass_alone(kind):
    loss, net, (x, y) = every_kind()[kind], wrapped(small_mlp()), batch()
    loss(net, x, y, EPS)
    before = kept(loss)
    assert (before.abs() == 1).all()  # corners of the ball
    terms = [loss(net, x, y, EPS) for _ in range(3)]
    gradients(terms[0].total, net.module)
    assert torch.equal(kept(loss), before)
    terms[2].backward()  # although two passes were never differentiated
    moved = (kept(loss) - before).abs()
    assert set(moved.unique().tolist()) == {0.0, 0.25}


@pytest.mark.parametrize("kind", every_kind())
def test_they_stay_in_the_ball_of_a_growing_radius(kind):
    loss, net = every_kind()[kind], wrapped(small_mlp())
    channel = torch.tensor([1.0, 0.25]).view(2, 1, 1)
    for step in range(1, 9):
        radius = 0.02 * step * channel
        terms = loss(net, *batch(), radius)
        shared = terms.perturbations[-2:]  # behind those of each input, for CITRUS
        inner = 0.6 * radius if kind == "citrus" else radius
        assert (shared.abs() <= inner * (1 + 1e-6)).all()
        assert (shared.abs() / inner).max() == pytest.approx(1)
        terms.backward()
    assert 0 < (kept(loss).abs() < 1).float().mean() < 1


def test_a_class_moves_its_own_perturbation_alone():
    net, loss = wrapped(small_mlp()), Uat(per_class=True)
    x, y = torch.rand(4, *SHAPE), torch.tensor([1, 1, 1, 1])
    loss(net, x, y, EPS).backward()
    first = kept(loss)
    loss(net, x, y, EPS).backward()
    still = [torch.equal(*pair) for pair in zip(first, kept(loss), strict=True)]
    assert still == [True, False, True]


def test_boxes_left_out_move_nothing():
    """CITRUS trains on the worst box alone: a universal perturbation in none of them stays."""
    net, (x, y) = wrapped(small_mlp()), batch()
    loss = Citrus(0.4, universal=4, worst=1)
    terms = loss(net, x, y, EPS)
    before = kept(loss)
    terms.backward()
    centres = x.unsqueeze(1) + terms.perturbations[-4:]
    lowest = (centres - 0.4 * EPS).clamp(0, 1)
    chosen = (lowest == terms.box.lower.unsqueeze(1)).flatten(2).all(2).any(0)
    moved = (kept(loss) != before).flatten(1).any(1)
    assert torch.equal(moved, chosen) and not chosen.all()


# ------------------------------------------------------------------------ saved and read


@pytest.mark.parametrize("kind", every_kind())
def test_a_run_goes_on_from_its_saved_state(kind):
    net, loss = wrapped(small_mlp()), every_kind()[kind]
    x, y = batch()
    fresh = copy.deepcopy(loss.state_dict())
    loss(net, x, y, EPS).backward()
    loss(net, x, y, EPS)  # saved between a forward pass and its backward pass
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    other = every_kind()[kind]
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(kept(other), kept(loss))
    totals = []
    for each in (loss, other):
        torch.manual_seed(5)
        terms = each(net, x, y, EPS)
        terms.backward()
        totals.append(terms.item())
    assert totals[0] == totals[1]
    assert torch.equal(kept(other), kept(loss))
    other.load_state_dict(fresh)  # a run that had not begun
    assert other.universal.shares is None
    other(net, x, y, EPS)
    assert (kept(other).abs() == 1).all()


def test_the_state_of_other_losses_is_empty():
    assert not LOSSES["ibp"](EPS).state_dict()
    assert not LOSSES["citrus"](EPS, tau_ratio=0.4).state_dict()
