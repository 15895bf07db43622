"""PGD on inputs and the joint attack on groups, on networks whose optimum is known."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from citrus_lirpa.attacks import PGD, GroupAttack, group, kappa
from citrus_lirpa.attacks.pgd import ascend
from citrus_lirpa.bounds import lirpa as _compat
from citrus_lirpa.bounds.frozen import gradient_of
from citrus_lirpa.bounds.net import BoundedNet
from citrus_lirpa.errors import InputError

SHAPE = (2, 5, 5)


def linear_net(weight, bias=None):
    """logits = weight @ x + bias for flat inputs."""
    weight = torch.tensor(weight)
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.tensor(bias or [0.0] * len(weight)))
    model = nn.Sequential(nn.Flatten(), layer)
    return BoundedNet(model, torch.rand(1, weight.shape[1]))


def conv_model():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(100, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip


def conv_net():
    return BoundedNet(conv_model(), torch.rand(2, *SHAPE))


def raw_bounded_module(model):
    """What a user of auto_LiRPA has: a BoundedModule made without this package."""
    with _compat.parsing():
        return _compat.load().BoundedModule(model, torch.rand(1, *SHAPE), device="cpu")


def batch(n=8):
    return torch.rand(n, *SHAPE), torch.arange(n) % 3


# ------------------------------------------------------------------------------- steps


@pytest.mark.parametrize(
    ("steps", "counts"),
    # tenfold smaller after 50, 80 and 90 % of the steps, rounded up
    [(20, (10, 6, 2, 2)), (10, (5, 3, 1, 1)), (8, (4, 3, 1, 0)), (7, (4, 2, 1, 0)), (1, (1,)),
     (0, ())],
)  # fmt: skip
def test_the_step_shrinks_as_scheduled(steps, counts):
    seen = []
    end = ascend(
        gradient_of(lambda v: (seen.append(v.item()), v.sum())[1]),
        lambda v: v, torch.zeros(1), 1.0, steps,
    )  # fmt: skip
    points = [*seen, end.item()]
    moves = [b - a for a, b in zip(points, points[1:], strict=False)]
    sizes = [0.1**i for i, count in enumerate(counts) for _ in range(count)]
    assert moves == pytest.approx(sizes, abs=2e-6)


def test_every_iterate_is_projected():
    seen = []
    start = torch.tensor([-9.0])
    slope = gradient_of(lambda v: seen.append(v.item()) or v.sum())
    ascend(slope, lambda v: v.clamp(-1, 2), start, 1.5, 5)
    assert seen == [-1.0, 0.5, 2.0, 2.0, 2.0]


def test_momentum_keeps_a_share_of_the_earlier_direction():
    slopes = iter([1.0, -0.25, -0.5, 0.0])  # directions 1, 0.25, -0.375 and -0.1875
    seen = []
    ascend(
        gradient_of(lambda v: (seen.append(v.item()), v.sum() * next(slopes))[1]),
        lambda v: v, torch.zeros(1), 1.0, 4, 0.5,
    )  # fmt: skip
    assert seen == pytest.approx([0.0, 1.0, 2.0, 1.9])  # tenfold smaller from half way


# --------------------------------------------------------------------------------- PGD


@pytest.mark.parametrize("eps", [0.01, 0.2, 0.9])
def test_pgd_stays_in_the_ball_and_in_the_pixels(eps):
    x, y = batch()
    x[0], x[1] = 0.0, 1.0
    v = PGD(steps=5, restarts=2)(conv_net(), x, y, eps)
    assert v.shape == x.shape and not v.requires_grad
    assert v.abs().max() <= eps + 1e-6 and v.abs().max() > 0.9 * eps
    assert (x + v).min() >= -1e-6 and (x + v).max() <= 1 + 1e-6
    free = PGD(steps=5, clip=None)(conv_net(), x, y, eps)
    assert free.abs().max() <= eps + 1e-6
    assert (x + free).max() > 1 + eps / 2 and (x + free).min() < -eps / 2


def test_pgd_radius_and_range_may_differ_by_channel():
    x, y = batch()
    eps = torch.tensor([0.3, 0.05]).view(2, 1, 1)
    clip = torch.zeros(2, 1, 1), torch.tensor([1.0, 0.5]).view(2, 1, 1)
    x[:, 1] *= 0.5
    v = PGD(steps=5, clip=clip)(conv_net(), x, y, eps)
    assert (v.abs() <= eps + 1e-6).all()
    assert (v.abs().amax((0, 2, 3)) > 0.9 * eps.flatten()).all()
    assert (x + v)[:, 1].max() <= 0.5 + 1e-6 and (x + v)[:, 0].max() > 0.5


def test_pgd_finds_the_optimum_of_a_linear_model():
    # label 0 loses as 3x₀ - 2x₁ falls: v = (-ε, +ε), as far as the pixels reach
    net = linear_net([[3.0, -2.0], [0.0, 0.0]])
    x = torch.tensor([[0.5, 0.5], [0.125, 0.9375], [0.5, 0.5]])
    v = PGD()(net, x, torch.tensor([0, 0, 1]), 0.25)
    expected = torch.tensor([[-0.25, 0.25], [-0.125, 0.0625], [0.25, -0.25]])
    torch.testing.assert_close(v, expected, atol=1e-6, rtol=0)


def test_pgd_beats_random_noise():
    net, (x, y), eps = conv_net(), batch(), 0.1
    moved = [x + PGD()(net, x, y, eps)]
    moved += [(x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1) for _ in range(20)]
    with net.evaluating(), torch.no_grad():
        losses = torch.stack([F.cross_entropy(net(z), y, reduction="none") for z in moved])
    assert losses[0].mean() > losses[1:].max(dim=0).values.mean()


def test_restarts_keep_the_best_start_of_each_input():
    net, (x, y), eps = conv_net(), batch(12), 0.3
    torch.manual_seed(3)
    v = PGD(steps=0, restarts=5)(net, x, y, eps)
    torch.manual_seed(3)
    starts = [torch.empty_like(x).uniform_(-1, 1) * eps for _ in range(5)]
    starts = [(x + start).clamp(0, 1) - x for start in starts]
    chosen = []
    for i in range(len(x)):
        losses = []
        for start in starts:
            logits = net.module.eval()((x + start)[i : i + 1])
            losses.append(F.cross_entropy(logits, y[i : i + 1]).item())
        chosen.append(max(range(5), key=losses.__getitem__))
        torch.testing.assert_close(v[i], starts[chosen[-1]][i])
    assert len(set(chosen)) > 1


def test_eps_zero_gives_zeros():
    x, y = batch()
    assert (PGD(steps=3)(conv_net(), x, y, 0.0) == 0).all()
    groups = x.view(2, 4, *SHAPE), y.view(2, 4)
    assert (GroupAttack(steps=3)(conv_net(), *groups, 0.0).u == 0).all()


@pytest.mark.parametrize("training", [True, False])
def test_attacks_leave_the_network_as_it_was(training):
    net, (x, y) = conv_net(), batch()
    net.train(training)
    net.module[0].weight.requires_grad_(False)
    net.module[-1].weight.grad = torch.ones_like(net.module[-1].weight)
    before = copy.deepcopy(net.module.state_dict())
    PGD(steps=2, restarts=2)(net, x, y, 0.1)
    GroupAttack(steps=2)(net, x.view(2, 4, *SHAPE), y.view(2, 4), 0.1)
    assert net.training is training and net.module.training is training
    assert [p.requires_grad for p in net.parameters()].count(False) == 1
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    assert len(grads) == 1 and (grads[0] == 1).all()
    after = net.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # statistics too


def test_attacks_leave_a_frozen_batchnorm_frozen():
    """A part set to eval mode by its owner, as in fine-tuning, is not set to train mode."""
    net, (x, y) = conv_net(), batch()
    net.train()
    net.module[1].eval()
    PGD(steps=1)(net, x, y, 0.1)
    assert not net.module[1].training and net.module.training


def test_pgd_works_without_gradient_mode():
    net, (x, y) = conv_net(), batch()
    torch.manual_seed(1)
    expected = PGD(steps=3)(net, x, y, 0.1)
    torch.manual_seed(1)
    with torch.no_grad():
        torch.testing.assert_close(PGD(steps=3)(net, x, y, 0.1), expected)


@pytest.mark.parametrize("training", [True, False])
def test_a_users_bounded_module_gives_the_same_perturbations(training):
    model, (x, y) = conv_model(), batch()
    theirs = raw_bounded_module(copy.deepcopy(model).eval())
    theirs.train(training)
    ours = BoundedNet(model.train(training), x)
    groups = x.view(2, 4, *SHAPE), y.view(2, 4)
    results = []
    for net in (ours, theirs):
        torch.manual_seed(2)
        results.append((PGD(steps=4)(net, x, y, 0.1), *GroupAttack(steps=4)(net, *groups, 0.1)))
        assert net.training is training
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=0)


# ------------------------------------------------------------------------ group attack

# logit₀ - logit₁ = x - 1/2: label 0 is broken below 1/2, label 1 above
ONE_D = [[1.0], [0.0]], [-0.5, 0.0]


def test_conflicting_inputs_are_broken_one_at_a_time():
    x = torch.tensor([[[0.6], [0.4]], [[0.6], [0.45]]])
    y = torch.tensor([[0, 1], [0, 0]])  # the second group: 0.45 is wrong already, both can be
    net = linear_net(*ONE_D)
    x, y = x.repeat(10, 1, 1), y.repeat(10, 1)
    u, broken = GroupAttack(restarts=8)(net, x, y, 0.3)
    assert u.shape == (20, 1, 1) and u.abs().max() <= 0.3
    assert broken.sum(1).tolist() == [1, 2] * 10
    below = (x + u).squeeze(2) < 0.5
    assert torch.equal(broken, below == (y == 0))  # by the u that is returned, not the last


def test_all_are_broken_where_one_u_can():
    net = linear_net([[2.0, 1.0], [0.0, 0.0]], [-1.0, 0.0])
    # margins 2x₀ + x₁ - 1 of 0.1, 0.15 and 0.1; the largest drop is 3ε
    x = torch.tensor([[[0.5, 0.1], [0.55, 0.05], [0.4, 0.3]]])
    y = torch.zeros(1, 3, dtype=torch.long)
    result = GroupAttack()(net, x, y, 0.1)
    assert result.broken.tolist() == [[True, True, True]]
    assert GroupAttack()(net, x, y, 0.04).broken.sum() == 2
    assert GroupAttack()(net, x, y, 0.03).broken.sum() == 0


def test_only_open_inputs_count():
    x = torch.tensor([[[0.6], [0.58], [0.4]]])
    y = torch.tensor([[0, 0, 1]])
    net = linear_net(*ONE_D)
    everything = GroupAttack()(net, x, y, 0.3)
    assert everything.broken.tolist() == [[True, True, False]] and everything.u.item() < -0.1
    for _ in range(8):  # some starts break the two that do not count
        result = GroupAttack()(net, x, y, 0.3, torch.tensor([[False, False, True]]))
        assert result.broken.tolist() == [[False, False, True]] and result.u.item() > 0.1
    result = GroupAttack()(net, x, y, 0.3, torch.tensor([[True, False, False]]))
    assert result.broken[0, 0] and not result.broken[0, 2]


def test_broken_inputs_are_no_longer_pushed():
    """Both margins fall on u₀ in (-0.05, -0.02) alone, though the first pulls u₀ to -ε."""
    # against class 2: 0.06 + 3u₀ for label 0, and 0.25 - u₀ + u₁ for label 1
    net = linear_net([[3.0, 0.0], [-1.0, 1.0], [0.0, 0.0]])
    x, y = torch.tensor([[[0.02, -0.98], [-1 / 3, 0.25 - 1 / 3]]]), torch.tensor([[0, 1]])
    x, y = x.expand(20, -1, -1), y.expand(20, -1)  # twenty starts
    u, broken = GroupAttack(overshoot=0.01, restarts=1)(net, x, y, 0.3)
    assert broken.all() and (-0.05 < u[:, 0, 0]).all() and (u[:, 0, 0] < -0.02).all()
    always_pushed = GroupAttack(overshoot=10.0, restarts=1)(net, x, y, 0.3).broken
    assert always_pushed.all(dim=1).sum() < 15


def test_only_what_is_open_and_unbroken_costs_anything(monkeypatch):
    net = linear_net(*ONE_D)
    x = torch.tensor([[[0.6], [0.9]], [[0.9], [0.9]], [[0.9], [0.9]]])
    y = torch.zeros(3, 2, dtype=torch.long)
    open_ = torch.tensor([[True, False], [True, True], [False, False]])
    seen = []

    def counted(function):
        return lambda z: (seen.append(len(z)), function(z))[1]

    frozen = net.frozen
    monkeypatch.setattr(net, "frozen", lambda: counted(frozen()))
    monkeypatch.setattr(net.module, "forward", counted(net.module.forward))
    result = GroupAttack(steps=4, restarts=3)(net, x, y, 0.2, open_)
    assert result.broken.tolist() == [[True, False], [False, False], [False, False]]
    assert not result.u[1:].any()  # nothing of theirs can be broken
    assert seen == [3] * 5 + [2] * 10 + [6]  # the first group is done after one restart


def test_both_objectives_have_their_turn(monkeypatch):
    used = []
    loss = group.robust_cross_entropy
    monkeypatch.setattr(group, "robust_cross_entropy", lambda m: (used.append(m.shape), loss(m))[1])
    x, y = torch.tensor([[[0.9]]]), torch.tensor([[0]])
    for restarts, calls in ((1, 0), (2, 3), (3, 3), (4, 6)):
        used.clear()
        GroupAttack(steps=2, restarts=restarts)(linear_net(*ONE_D), x, y, 0.1)
        assert len(used) == calls


def test_the_last_step_counts_too():
    x, y = torch.tensor([[[0.6]]]), torch.tensor([[0]])
    attack = GroupAttack(steps=1, step_size=2.0, restarts=1)
    result = attack(linear_net(*ONE_D), x, y, 0.1001)
    assert result.broken.all() and result.u.item() == pytest.approx(-0.1001)


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_broken_is_what_the_network_says(clip):
    net = conv_net().eval()
    x = torch.rand(6, 4, *SHAPE)
    with torch.no_grad():
        y = net(x.flatten(0, 1)).argmax(1).view(6, 4)
    y[:, 0] = (y[:, 0] + 1) % 3  # misclassified from the start
    u, broken = GroupAttack(steps=10, clip=clip)(net, x, y, 0.05)
    moved = x + u if clip is None else (x + u).clamp(*clip)
    with torch.no_grad():
        wrong = net(moved.flatten(0, 1)).argmax(1).view(6, 4) != y
    assert torch.equal(broken, wrong)
    assert 0 < broken.sum() < broken.numel()
    assert u.shape == (6, 1, *SHAPE) and u.abs().max() <= 0.05 + 1e-6 and not u.requires_grad


def test_groups_do_not_share_a_perturbation():
    x, y = torch.tensor([[[0.6]], [[0.4]]]), torch.tensor([[0], [1]])
    u, broken = GroupAttack(restarts=1)(linear_net(*ONE_D), x, y, 0.3)
    assert broken.all() and u[0].item() < -0.1 and u[1].item() > 0.1


# -------------------------------------------------------------------------- κ by hand


def line():
    """Class 1 where the pixel is above 1/2; BatchNorm makes the modes differ."""
    model = nn.Sequential(nn.BatchNorm1d(1, eps=1e-12), nn.Linear(1, 2))
    model[1].weight.data = torch.tensor([[0.0], [1.0]])
    model[1].bias.data = torch.tensor([0.5, 0.0])
    return BoundedNet(model, torch.rand(2, 1)).train()


def test_kappa_counts_what_one_perturbation_breaks():
    x = torch.tensor([[0.45], [0.4], [0.9], [0.55], [0.6], [0.95]])
    y = torch.tensor([0, 0, 1, 1, 1, 0])  # the last is wrong without any
    up, further, down = [0.08], [0.15], [-0.08]
    net = line()

    def count(*v, clip=(0.0, 1.0)):
        return kappa(net, x, y, torch.tensor(v), clip)

    assert count(up) == 1 and count(further) == 2 and count(down) == 1
    assert count(up, further, down) == 2
    assert count([0.0]) == 0
    assert count([0.6], clip=None) == 2 and count([-0.6], clip=None) == 3
    assert count([0.6], clip=(0.0, 0.45)) == 3  # the border keeps class 0, and breaks class 1
    assert net.training and net.module[0].running_mean.item() == 0


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("attack", "options", "message"),
    [
        (PGD, dict(steps=-1), r"PGD\.steps is -1; expected at least 0"),
        (PGD, dict(restarts=0), r"PGD\.restarts is 0; expected at least 1"),
        (PGD, dict(step_size=0.0), r"step_size is 0\.0; expected a number > 0"),
        (GroupAttack, dict(steps=0), r"GroupAttack\.steps is 0; expected at least 1"),
        (GroupAttack, dict(restarts=-2), r"GroupAttack\.restarts is -2; expected at least 1"),
        (GroupAttack, dict(step_size=-1.0), r"step_size is -1\.0; expected a number > 0"),
        (GroupAttack, dict(momentum=1.0), r"momentum is 1\.0; expected .* less than 1"),
    ],
)
def test_impossible_settings_are_refused(attack, options, message):
    with pytest.raises(InputError, match=message):
        attack(**options)


@pytest.mark.parametrize("attack", [PGD(steps=1), GroupAttack(steps=1)])
def test_impossible_calls_are_refused(attack):
    x, y = batch(4)
    if isinstance(attack, GroupAttack):
        x, y = x[None], y[None]
    for eps in (-0.1, float("nan")):
        with pytest.raises(InputError, match=rf"ε is {eps}; expected a finite number >= 0"):
            attack(conv_net(), x, y, eps)
    with pytest.raises(InputError, match=r"got Sequential; wrap the model"):
        attack(conv_model(), x, y, 0.1)
