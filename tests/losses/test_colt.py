"""COLT against its algorithm written out, its stages, and the networks that it can split."""

import copy

import pytest
import torch
import torch.nn.functional as F
from reference import EPS, MODELS, at_points, batch, clean_statistics, model_names, wrapped
from torch import nn

from citrus_lirpa.bounds.net import BoundedNet
from citrus_lirpa.errors import InputError, ModelError
from citrus_lirpa.losses import Colt

# ------------------------------------------------------------------------- written out


def blocks(model):
    """The layers up to each ReLU without it, then those behind the last one."""
    parts = [[]]
    for layer in model:
        if isinstance(layer, nn.ReLU):
            parts.append([])
        else:
            parts[-1].append(layer)
    return parts


class Literal:
    """One batch of algorithm 1, input by input, with every generator of every zonotope."""

    def __init__(self, model, x, y, stage, share, radius, natural, stable):
        self.model, self.x, self.y, self.stage, self.share = model, x, y, stage, share
        self.natural, self.stable = natural, stable
        self.parts = blocks(model)
        for layer in [layer for part in self.parts[:stage] for layer in part]:
            layer.requires_grad_(False)
        self.statistics = clean_statistics(model, x)
        self.lower, self.upper = (x - radius).clamp(0, 1), (x + radius).clamp(0, 1)

    def affine(self, part, x):
        return at_points(self.parts[part], self.statistics, x)

    def behind(self, part, x):
        """Logits from the outputs of the ReLU in front of a part."""
        for number in range(part, len(self.parts)):
            x = self.affine(number, x)
            x = x if number == len(self.parts) - 1 else x.relu()
        return x

    def zonotope(self, n, stage):
        """Centre, and the generators (M, ...) of input n, behind ReLU number ``stage``."""
        lower, upper = self.lower[n], self.upper[n]
        centre, generators = (lower + upper) / 2, []
        for at in range(lower.numel()):
            one = torch.zeros(lower.numel())
            one[at] = (upper - lower).flatten()[at] / 2
            generators.append(one.view_as(lower))
        for part in range(stage):
            centre, generators = self.moved(part, centre, generators)
            radius = sum(g.abs() for g in generators)
            low, high = (centre - radius).flatten(), (centre + radius).flatten()
            slope, offset = torch.zeros_like(low), torch.zeros_like(low)
            for at in range(len(low)):
                if low[at] >= 0:
                    slope[at] = 1
                elif high[at] > 0:
                    slope[at] = high[at] / (high[at] - low[at])
                    offset[at] = -high[at] * low[at] / (2 * (high[at] - low[at]))
            shape = centre.shape
            centre = slope.view(shape) * centre + offset.view(shape)
            generators = [slope.view(shape) * g for g in generators]
            generators += [row.view(shape) for row in offset.diag()]
        return centre, torch.stack(generators)

    def moved(self, part, centre, generators):
        """Centre and generators behind an affine part."""
        shift = self.affine(part, torch.zeros_like(centre)[None])
        rest = self.affine(part, torch.stack(list(generators))) - shift
        return self.affine(part, centre[None])[0], list(rest)

    def attacked(self, stage):
        """A point of each zonotope behind ReLU ``stage``, by 8 steps of 1/4."""
        zonotopes = [self.zonotope(n, stage) for n in range(len(self.x))]
        starts = torch.empty(len(self.x), len(zonotopes[0][1])).uniform_(-1, 1)
        points = []
        for (centre, generators), e, label in zip(zonotopes, starts, self.y, strict=True):

            def point(e, centre=centre, generators=generators):
                return centre + torch.einsum("m,m...->...", e, generators)

            for _ in range(8):
                e = e.detach().requires_grad_()
                loss = F.cross_entropy(self.behind(stage, point(e)[None]), label[None])
                (slope,) = torch.autograd.grad(loss, e)
                e = (e + 0.25 * slope.sign()).clamp(-1, 1).detach()
            points.append(point(e))
        return torch.stack(points).detach()

    def loss(self):
        stage, share, clean = self.stage, self.share, self.x
        for part in range(stage):
            clean = self.affine(part, clean).relu()
        now = self.attacked(stage) if share else clean
        before = clean
        if stage and share < 1:
            before = self.affine(stage - 1, self.attacked(stage - 1)).relu()
        losses = [F.cross_entropy(self.behind(stage, z), self.y) for z in (now, before, clean)]
        attacked = share * losses[0] + (1 - share) * losses[1]
        total = (1 - self.natural) * attacked + self.natural * losses[2]
        if stage < len(self.parts) - 2:  # the ReLU behind this part is frozen in the next stage
            for n in range(len(self.x)):
                centre, generators = self.moved(stage, *self.zonotope(n, stage))
                radius = sum(g.abs() for g in generators)
                product = (radius - centre).relu() * (radius + centre).relu()
                total = total + self.stable * 1.5**stage * share * product.sum() / len(self.x)
        return total


@model_names
@pytest.mark.parametrize("natural", [0.0, 0.25])
@pytest.mark.parametrize("position", [0.0, 0.15, 0.5, 1.15, 1.5, 2.15, 2.5])
def test_colt_is_algorithm_1(name, position, natural, double):
    """Values and gradients; ``position`` counts stages, each with a share of 0.3 to fade in."""
    model, (x, y) = MODELS[name](), batch()
    net, last = wrapped(model), len(blocks(model)) - 2
    if position > last + 1:
        return  # a multilayer perceptron has one stage less
    stage, share = int(position), min(1.0, position % 1 / 0.3)
    literal = copy.deepcopy(model)
    torch.manual_seed(4)
    radius = 1.1 ** (last - stage) * EPS
    expected = Literal(literal, x, y, stage, share, radius, natural, 0.05).loss()
    expected.backward()

    loss = Colt(projections=0, natural=natural, stable=0.05)
    frozen = loss.begin_step(net, position / (last + 1), EPS).frozen
    torch.manual_seed(4)
    terms = loss(net, x, y, EPS)
    torch.testing.assert_close(terms.total, expected)
    terms.backward()
    for weight, other in zip(model.parameters(), literal.parameters(), strict=True):
        assert weight.requires_grad and (other.grad is None) == any(weight is w for w in frozen)
        torch.testing.assert_close(weight.grad, other.grad)
    assert len(frozen) == sum(p.grad is None for p in literal.parameters())


# ------------------------------------------------------------------------------- stages


def test_stages_fade_in_and_slow_down():
    """Three stages of a third: ReLU layers frozen, then rates halved over the last 0.7 of each."""
    net = wrapped(MODELS["conv"]())
    loss = Colt(mix=0.3, halvings=7, stage_rate=0.75)
    rates = {0: 1, 0.1: 1, 0.3: 1, 0.41: 0.5, 0.55: 1 / 4, 0.95: 1 / 64,
             1: 0.75, 1.55: 0.75 / 4, 2.1: 0.75**2, 3: 0.75**2 / 128}  # fmt: skip
    found = {at: loss.begin_step(net, at / 3, EPS) for at in rates}
    assert {at: stage.rate for at, stage in found.items()} == pytest.approx(rates)
    counts = {at: len(stage.frozen) for at, stage in found.items()}
    assert [counts[at] for at in (0, 0.95, 1, 2.1, 3)] == [0, 0, 4, 8, 8]  # with BatchNorm's
    assert Colt(mix=0.0, halvings=0).begin_step(net, 1.0, EPS).rate == 0.75**2


def test_random_projections_come_near_the_exact_widths():
    net, (x, y) = wrapped(MODELS["conv"]()).eval(), batch()
    totals = []
    for projections in (0, 2000):
        loss = Colt(projections=projections, stable=1.0)
        loss.begin_step(net, 0.5, EPS)
        torch.manual_seed(3)
        totals.append(loss(net, x, y, EPS).item())
    assert totals[1] == pytest.approx(totals[0], rel=0.1) and totals[0] != totals[1]


# -------------------------------------------------------------------- what it refuses


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.one(x).relu()
        return self.three(self.two(x).relu() + x)


def test_networks_that_cannot_be_split_are_refused_at_once():
    net, x, y = BoundedNet(Residual(), torch.rand(2, 4)), torch.rand(2, 4), torch.tensor([0, 1])
    assert torch.isfinite(Colt(split=1)(net, x, y, 0.0))  # in front of the connection
    deep = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Residual())
    net = BoundedNet(deep, torch.rand(2, 4))
    with pytest.raises(ModelError, match="cannot be split behind ReLU 2: its logits depend"):
        Colt(split=3).check_net(BoundedNet(nn.Sequential(deep, nn.ReLU(), nn.Linear(3, 3)),
                                           torch.rand(2, 4)))  # fmt: skip
    for split in (0, 3, -3):
        with pytest.raises(InputError, match=f"split is {split}, but the network has 3 ReLUs"):
            Colt(split=split)(net, x, y, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(split=0.5), "split is 0.5"),
        (dict(natural=1.0), r"natural is 1.0; expected a share in \[0, 1\)"),
        (dict(mix=-0.1), "mix is -0.1"),
        (dict(halvings=-1), "halvings is -1"),
        (dict(stage_rate=0), "stage_rate is 0; expected a factor > 0"),
        (dict(eps_growth=-1), "eps_growth is -1"),
        (dict(stable=-1), "stable is -1; expected a weight >= 0"),
        (dict(stable_growth=0.0), "stable_growth is 0.0"),
        (dict(projections=0.5), "projections is 0.5"),
        (dict(attack_steps=0), "attack_steps is 0"),
        (dict(attack_step_size=0), "step_size is 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Colt(**options)
