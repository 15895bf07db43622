"""Reduced networks: their margins, dual bounds and trees, against the whole network's."""

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from exact import KINDS, most_broken, random_images, random_net, smallest_margins
from fuzzing import random_test
from hypothesis import strategies as st
from scipy import sparse
from torch import nn

from citrus_lirpa import BoundedNet
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.verify.crown import tree as trees
from citrus_lirpa.verify.crown.ascent import ascend_dual
from citrus_lirpa.verify.crown.descent import Descent
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.crown.matrix import Matrix
from citrus_lirpa.verify.crown.pool import Domains, Pool
from citrus_lirpa.verify.crown.reduced_dual import ReducedBound, columns
from citrus_lirpa.verify.crown.reduced_images import ReducedImages
from citrus_lirpa.verify.crown.tree import BROKEN, OPEN, PROVED, Tree

nets = dict(
    kind=st.sampled_from((*KINDS, "wide", "branches")),
    seed=st.integers(0, 10_000),
    eps=st.sampled_from((0.05, 0.2, 0.5)),
    clip=st.sampled_from((None, (0.0, 1.0))),
)


def wide_net(seed: int) -> tuple[nn.Sequential, tuple[int, ...]]:
    """A convolution of many pixels, so that matrices are sparse, then two layers."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(75, 12)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(12, 3)).eval(), (1, 12, 12)


class Branches(nn.Module):
    """Two ways from the input to the logits, so that the second ReLU does not see the first."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.end = nn.Linear(5, 6), nn.Linear(5, 7), nn.Linear(13, 3)

    def forward(self, x):
        return self.end(torch.cat([self.left(x).relu(), self.right(x).relu()], dim=1))


def made(kind: str, seed: int, classes: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A network of a kind, and the shape of its images."""
    if kind == "wide":
        return wide_net(seed)
    return (Branches().eval(), (5,)) if kind == "branches" else random_net(kind, seed, classes)


def prepare(kind, seed, eps, clip=None, count=4, classes=3):
    """The network, and images of it with bounds that hold in float64."""
    torch.manual_seed(seed)
    model, shape = made(kind, seed, classes)
    x, y = random_images(model, shape, seed, count)
    engine = DualEngine(BoundedNet(model, x).eval(), Ball(eps, clip))
    return model, ReducedImages(engine, engine.refined(engine.ibp(x, y)[0]))


def random_splits(reduced: ReducedImages, members, count: int):
    """Signs (count, M) on the reduced networks of members, and the same (count, s, M') whole."""
    whole = []
    for i in members:
        unstable = reduced.images.relaxation.upper[i] > 0  # and not padding
        signs = torch.randint(-1, 2, (count, len(unstable))) * (torch.rand(count, 1) < 0.7)
        whole.append(signs * unstable)
    small = torch.cat(whole, 1)[:, reduced.joined(members)[0].columns]
    return small.to(torch.int8), torch.stack(whole, 1).to(torch.int8)


# ------------------------------------------------------------------------------ the network


@random_test(20, 40, **nets, members=st.integers(1, 3))
def test_on_the_ball_a_tuple_has_the_largest_margin_of_its_images(kind, seed, eps, clip, members):
    model, reduced = prepare(kind, seed, eps, clip)
    ball, images, chosen = reduced.engine.ball, reduced.images, torch.randperm(4)[:members]
    u = eps * (2 * torch.rand(50, *images.x.shape[1:], dtype=torch.float64) - 1)
    u[::2] = eps * u[::2].sign()
    rows = torch.randint(images.c.shape[1], (50, members))
    with torch.enable_grad():
        points = ball.cut(images.x[chosen].double() + u.unsqueeze(1)).requires_grad_()
        logits = model.double()(points.flatten(0, 1)).unflatten(0, (50, members))
        each = (logits * images.c[chosen, rows].double()).sum(2)
        expected = each.amax(1)
        (slope,) = torch.autograd.grad(expected.sum(), points)
    model.float()
    for network, tolerance in zip(reduced.joined(chosen.tolist()), (1e-9, 1e-4), strict=True):
        point = u.flatten(1).t().to(network.bias.dtype)
        margin, gradient = Descent(network, ball, rows).margins(rows, point)
        assert torch.allclose(margin.double(), expected.detach(), atol=tolerance)
        if network.bias.dtype == torch.float64:
            assert torch.allclose(gradient.t(), slope.sum(1).flatten(1), atol=1e-7)


@pytest.mark.parametrize("density", [0.0, 0.05, 0.9])
def test_matrices_are_the_same_sparse_or_dense(density):
    torch.manual_seed(0)
    dense = torch.randn(7, 30, dtype=torch.float64) * (torch.rand(7, 30) < density)
    matrix = Matrix.of(sparse.csr_array(dense.numpy()), dense.device)
    values, other = torch.randn(30, 40).double(), torch.randn(7, 40).double()
    for count in (1, 2, 15, 40):
        found, turned = torch.ones(7, count).double(), torch.ones(30, count).double()
        matrix.add_to(found, values[:, :count])
        matrix.add_transposed_to(turned, other[:, :count])
        assert torch.allclose(found, 1 + dense @ values[:, :count])
        assert torch.allclose(turned, 1 + dense.t() @ other[:, :count])
    assert (matrix.plain.layout == torch.sparse_csr) == (density < 0.25)
    for same in (matrix, matrix.to(torch.float32)):
        assert torch.equal(same.plain.to_dense(), dense.to(same.plain.dtype))
        assert torch.equal(same.transposed.to_dense(), dense.t().to(same.plain.dtype))


def fractions(values: torch.Tensor) -> np.ndarray:
    """The very numbers, in exact arithmetic."""
    return np.vectorize(Fraction, otypes=[object])(values.double().numpy())


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(s, marks=pytest.mark.nightly) for s in range(4, 10))]
)
def test_folding_is_off_by_no_more_than_is_said(seed):
    """In exact arithmetic, for any outputs of the unstable ReLUs within their bounds."""
    torch.manual_seed(seed)
    sizes = (6, 9, 8, 7, 4)
    layers = [nn.Linear(*ends) for ends in itertools.pairwise(sizes)]
    every = [part for layer in layers for part in (layer, nn.ReLU())][:-1]
    x = torch.rand(1, 6)
    engine = DualEngine(BoundedNet(nn.Sequential(*every).eval(), x), Ball(0.3))
    images = engine.refined(engine.ibp(x, torch.tensor([1]))[0])
    network = ReducedImages(engine, images).network(0)
    h = fractions(network.upper * torch.rand(len(network)).double())
    u = fractions(0.3 * (2 * torch.rand(6) - 1))
    values, z = fractions(x[0]) + u, []
    alone, _ = images.relaxation.alone(0)
    for k, layer in enumerate(layers):
        values = fractions(layer.weight.detach()) @ values + fractions(layer.bias.detach())
        if k < len(alone.index):
            unstable = alone.index[k][0].numpy()
            z += values[unstable].tolist()
            values = np.where(alone.active[k][0].numpy() > 0, values, Fraction(0))
            values[unstable] = h[network.layers[k]]
    margins = values[1] - np.delete(values, 1)
    inputs, inner = (torch.from_numpy(part.toarray()) for part in (network.inputs, network.inner))
    folded = fractions(inputs) @ u + fractions(inner) @ h
    off = abs(np.array(z) - (folded + fractions(network.bias)))
    assert len(z) >= 8 and 0 < off.max() < 1e-14
    assert (off <= fractions(network.errors)).all() and float(network.errors.max()) < 1e-11
    same = fractions(network.margin_inputs) @ u + fractions(network.margin_outputs) @ h
    off = abs(margins - (same + fractions(network.margin_bias)))
    assert (off <= fractions(network.margin_errors)).all()


# -------------------------------------------------------------------------------- the bounds


@random_test(20, 40, **nets, members=st.integers(1, 3))
def test_bounds_gradients_and_points_are_those_of_the_dual_engine(kind, seed, eps, clip, members):
    _, reduced = prepare(kind, seed, eps, clip)
    engine, images, count = reduced.engine, reduced.images, 6
    chosen = torch.randperm(4)[:members]
    rows = torch.randint(2, (count, members))
    signs, whole = random_splits(reduced, chosen.tolist(), count)
    network, _ = reduced.joined(chosen.tolist())
    few = ReducedBound(network, engine.ball, rows, signs)
    dual = engine.dual(images, chosen.expand(count, -1), rows, signs=whole.flatten(0, 1))
    every = torch.arange(count * members)
    dual = dual.rows(every, engine.exact_segments, torch.float64)
    parameter = torch.rand_like(dual.start())
    weight = torch.rand(count, members, dtype=torch.float64).softmax(1)

    def small(tensor):
        """(D, M) of (R, M'): without what is stable for its member."""
        return tensor.view(count, -1)[:, network.columns]

    expected, found = dual(parameter, weight), few(columns(small(parameter)), weight)
    scale = 1 + expected.line.abs().max()
    assert torch.allclose(found.value, expected.value, atol=1e-9 * scale)
    assert torch.allclose(found.line, expected.line, atol=1e-9 * scale)
    assert torch.allclose(found.coefficients, small(expected.coefficients), atol=1e-9 * scale)
    assert torch.allclose(few.start(), small(dual.start()))
    assert found.u.shape == expected.u.shape
    if torch.equal(found.u, expected.u):  # ties may be broken in another way
        gradient = small(dual.gradient(expected))
        assert torch.allclose(few.gradient(found), gradient, atol=1e-8 * scale)


@random_test(20, 40, **nets)
def test_in_float32_an_ascent_stays_at_the_dual_engines(kind, seed, eps, clip):
    _, reduced = prepare(kind, seed, eps, clip)
    engine, images = reduced.engine, reduced.images
    for i in range(2):
        rows = torch.tensor([[0], [1]])
        _, fast = reduced.joined([i])
        few = ReducedBound(fast, engine.ball, rows, torch.zeros(2, len(fast), dtype=torch.int8))
        dual = engine.dual(images, torch.full((2, 1), i), rows)
        for steps in (0, 1):  # later ones enlarge differences of rounding
            one, other = (ascend_dual(each, steps, rate=0.1).value for each in (few, dual))
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
        assert (ascend_dual(few, 20, rate=0.25).value >= ascend_dual(few, 0).value).all()


@random_test(20, 40, **nets, members=st.integers(1, 3))
def test_what_rounding_can_make_of_a_bound_is_never_exceeded(kind, seed, eps, clip, members):
    """Bounds in float32, of multipliers as large as 1e4, against the same in float64."""
    _, reduced = prepare(kind, seed, eps, clip)
    chosen = torch.randperm(4)[:members].tolist()
    signs, _ = random_splits(reduced, chosen, 20)
    rows = torch.randint(2, (20, members))
    fast = reduced.joined(chosen)[1]
    same = fast.to(torch.float64)
    size = 10.0 ** torch.randint(-2, 5, (20, 1))
    parameter = torch.rand(signs.shape) * torch.where(signs != 0, size, 1.0)
    weight = torch.rand(20, members).softmax(1)
    low, exact = (
        ReducedBound(network, reduced.engine.ball, rows, signs) for network in (fast, same)
    )
    value = low(columns(parameter), weight).value
    guaranteed = low.guaranteed(columns(parameter), weight).double()
    expected = exact(columns(parameter.double()), weight.double()).value
    assert (guaranteed <= expected).all()
    assert ((value - expected).abs() <= value - guaranteed).all()
    wide = value.double() - guaranteed
    tight = exact(columns(parameter.double()), weight.double()).value
    tight = tight - exact.guaranteed(columns(parameter.double()), weight.double())
    assert (tight <= 1e-6 * wide.clamp(min=1e-3)).all()


# ---------------------------------------------------------------------------------- the pool


def some_domains(values):
    n = len(values)
    number = torch.arange(n)
    return Domains(
        number.unsqueeze(1),
        torch.zeros(n, 3, dtype=torch.int8),
        torch.rand(n, 3),
        torch.zeros(n, 1),
        torch.tensor(values),
        number % 3,
    )


def test_a_pool_gives_back_what_was_put_in_best_first():
    generator = torch.Generator().manual_seed(0)
    pool, kept = Pool(some_domains([0.5])), [0.5]
    for _ in range(200):
        values = torch.rand(int(torch.randint(0, 9, (1,), generator=generator))).tolist()
        pool.add(some_domains(values))
        kept = sorted([*kept, *values], reverse=True)
        count = int(torch.randint(0, 7, (1,), generator=generator))
        taken = pool.take(count)
        assert taken.value.tolist() == pytest.approx(kept[:count])
        kept = kept[count:]
        assert pool.count == len(kept) and pool.numbers == 3 * len(kept)
    assert pool.take(10_000).value.tolist() == pytest.approx(kept) and pool.count == 0


def test_halves_differ_in_the_neuron_that_is_split_and_forget_its_slope():
    whole = some_domains([0.1, 0.2])
    halves = whole.halves()
    assert halves.signs.tolist() == [[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]]
    at = torch.arange(4)
    assert (halves.parameter[at, halves.choice] == 0).all()
    assert (halves.parameter > 0).sum() == 8
    assert not whole.signs.any() and (whole.parameter > 0).all()


# ---------------------------------------------------------------------------------- the trees


class Recorded(Tree):
    """Keeps the domains that it proves."""

    leaves: list

    def _proved(self, domains, found):
        proved = super()._proved(domains, found)
        if not hasattr(self, "leaves"):
            self.leaves = []
        self.leaves += zip(domains.rows[proved].tolist(), domains.signs[proved], strict=True)
        return proved


def begin(kind, reduced: ReducedImages, rows: torch.Tensor, *, whole: bool = True):
    """A tree of image 0, from combinations that are split nowhere.

    They are bounded a little on the ``whole`` network, or else by the tree itself.
    """
    tree = kind(reduced, [0], rows)
    if not whole:
        tree.plant_combinations(rows, torch.zeros(rows.shape))
        return tree
    members = torch.zeros_like(rows)
    dual = reduced.engine.dual(reduced.images, members, rows)
    found = ascend_dual(dual, 2)
    first = Domains(
        rows, torch.zeros_like(dual.signs, dtype=torch.int8), *found.last, found.value, rows[:, 0]
    )
    scores = found.point.coefficients.clamp(max=0).abs() * torch.cat(dual.offset, 1)
    tree.plant(Pool(first.after(found, torch.where(dual.unstable, scores, -1.0))), [])
    return tree


@torch.no_grad()
def hard_problem(seed: int, eps: float = 0.8) -> ReducedImages:
    """An image whose margin is positive on the ball, as far as samples tell, and whose bound
    is not: most of what lies between them is below zero."""
    torch.manual_seed(seed)
    layers = [nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)]
    model = nn.Sequential(*layers).eval()
    x, y = torch.rand(1, 5), torch.tensor([0])
    u = eps * (2 * torch.rand(4000, 5) - 1)
    u[::2] = eps * u[::2].sign()
    for step in range(2):
        engine = DualEngine(BoundedNet(model, x).eval(), Ball(eps))
        images = engine.refined(engine.ibp(x, y)[0])
        bound = engine.margins(images, torch.ones(1, 1, dtype=torch.bool), 20)[0]
        logits = model(x + u)
        least = (logits[:, 0] - logits[:, 1]).min()
        if step == 0:
            model[-1].bias[0] -= 0.9 * least + 0.1 * bound[0, 0]
    return ReducedImages(engine, images)


@pytest.mark.parametrize("count", [12, pytest.param(100, marks=pytest.mark.nightly)])
def test_leaves_of_proved_trees_cover_everything_and_none_twice(count, monkeypatch):
    """The leaves' shares add up to one, and any two of them contradict each other."""
    # leaves of programs do not pass where these are recorded
    monkeypatch.setattr(ReducedImages, "suit_programs", lambda *_: False)
    seen = most = 0
    for seed in itertools.count():
        tree = begin(Recorded, hard_problem(seed), torch.tensor([[0]]), whole=seed % 2 == 0)
        tree.run(0.5, 0.5)
        if tree.state == PROVED and len(tree.leaves) > 1:
            leaves = torch.stack([signs for _, signs in tree.leaves]).long()
            assert float((0.5 ** (leaves != 0).sum(1).double()).sum()) == 1.0
            opposed = (leaves.unsqueeze(1) * leaves.unsqueeze(0) == -1).any(2)
            assert bool((opposed | torch.eye(len(leaves), dtype=torch.bool)).all())
            seen, most = seen + 1, max(most, len(leaves))
        if seen == count:
            break
    assert most >= 10


@pytest.mark.parametrize(
    ("clip", "mapped"), [(None, False), ((0.0, 1.0), False), (None, True), ((0.0, 1.0), True)]
)
@pytest.mark.parametrize("count", [24, pytest.param(100, marks=pytest.mark.nightly)])
def test_trees_agree_with_the_exact_program(clip, mapped, count):
    tally = Counter()
    for seed in range(count):
        kind = KINDS[seed % len(KINDS)]
        eps = (0.1, 0.2, 0.3, 0.4)[seed % 4]
        if mapped:
            shape = made(kind, 31 * seed, 3)[1]
            eps = 1.5 * eps * torch.rand(shape, dtype=torch.float64)
            eps.flatten()[0] = 0.0
        model, reduced = prepare(kind, 31 * seed, eps, clip, count=1)
        images = reduced.images
        tree = begin(Tree, reduced, torch.tensor([[0], [1]]), whole=seed % 3 > 0)
        tree.run(2.0, 2.0)
        answer = most_broken(model, images.x, images.y, eps, clip=clip is not None)
        tally[tree.state, answer and answer[0]] += 1
        if answer is not None:
            assert tree.state != (PROVED if answer[0] else BROKEN), seed
        if tree.state == BROKEN:
            assert (tree.u.abs() <= eps * (1 + 1e-6)).all()
            margins = smallest_margins(model, images.x, images.y, tree.u, clip is not None)
            assert (margins < 1e-5).all()
    assert min(tally[PROVED, 0], tally[BROKEN, 1]) >= 0.15 * count, tally
    assert sum(tally[OPEN, known] for known in (0, 1, None)) <= 3, tally


def test_a_bound_in_float32_that_float64_does_not_confirm_proves_nothing(monkeypatch):
    _, reduced = prepare("mlp", 1, 0.05)
    tree = begin(Tree, reduced, torch.tensor([[0]]))
    tree.run(0.0, 0.0)
    assert tree.state == PROVED
    monkeypatch.setattr(
        trees.ReducedBound, "guaranteed", lambda self, p, w: self(p, w).value.clamp(max=0)
    )
    # programs compute in float64
    monkeypatch.setattr(ReducedImages, "suit_programs", lambda *_: False)
    tree = begin(Tree, reduced, torch.tensor([[0]]))
    tree.run(0.2, 0.2)
    assert tree.state != PROVED
