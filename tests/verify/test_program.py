"""Programs of reduced networks, against the exact program of ``exact``."""

import itertools
from collections import Counter

import pytest
import torch
from exact import KINDS, most_broken, random_images, random_net, smallest_margins

from citrus_lirpa import BoundedNet, certify, certify_uap, checker
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.verify.budget import Budget
from citrus_lirpa.verify.crown import forest, tree
from citrus_lirpa.verify.crown.branch_and_bound import Problems, branch_and_bound
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.crown.program import Program
from citrus_lirpa.verify.crown.proofs import Proofs
from citrus_lirpa.verify.crown.reduced_images import ReducedImages
from citrus_lirpa.verify.crown.refutation import leaf, refuted
from citrus_lirpa.verify.crown.tree import BROKEN, GIVEN_UP, OPEN, PROVED
from citrus_lirpa.verify.proof_files import ProofFolder


def prepared(seed, eps):
    model, shape = random_net(KINDS[seed % len(KINDS)], seed, 3)
    x, y = random_images(model, shape, seed, 3)
    engine = DualEngine(BoundedNet(model, x).eval(), Ball(eps))
    images = engine.refined(engine.ibp(x, y)[0])
    return model, engine, images, ReducedImages(engine, images)


PAIRS = list(itertools.combinations(range(3), 2))


def searched(reduced, pairs=PAIRS, seconds=30.0):
    """What branch and bound finds of pairs of three images, by default of all."""
    rows = list(itertools.product(range(2), repeat=2))
    owners = torch.arange(len(pairs)).repeat_interleave(4)
    problems = Problems(torch.tensor(pairs), owners, torch.tensor(rows * len(pairs)))
    return branch_and_bound(reduced, problems, Budget.of(seconds, 1))


def programs(engine, reduced, members):
    """Those of all combinations of margins that would break the members, and what refutes them."""
    networks, (exact, _) = [reduced.network(i) for i in members], reduced.joined(members)
    for rows in itertools.product(range(2), repeat=len(members)):
        program, row = Program.of(networks, engine.ball, rows), torch.tensor(rows)
        yield program, refuted(program, exact, engine.ball, row, 0.0, torch.float32)


@pytest.mark.parametrize("size", [1, 2])
def test_programs_break_what_can_be_broken_and_refute_the_rest(size):
    tally = Counter()
    for seed in range(6):
        eps = (0.1, 0.25, 0.4)[seed % 3]
        model, engine, images, reduced = prepared(7 * seed, eps)
        for members in itertools.combinations(range(3), size):
            x, y = images.x[list(members)], images.y[list(members)]
            answer = most_broken(model, x, y, eps)
            if answer is None:
                continue
            each = list(programs(engine, reduced, members))
            answers = [program.search(60.0) for program, _ in each]
            proved = [leaves is not None for _, leaves in each]
            can_break = answer[0] == size
            assert all(proved) is not can_break, (seed, members)
            assert all(found.impossible for found in answers) is not can_break, (seed, members)
            if can_break:
                u = next(found.u for found in answers if found.u is not None).float()
                assert (u.abs() <= eps * (1 + 1e-6)).all()
                assert (smallest_margins(model, x, y, u, False) < 1e-5).all()
            tally[can_break] += 1
    assert min(tally[True], tally[False]) >= 3, tally


def test_what_the_network_does_satisfies_all_rows():
    for seed in range(6):
        _, engine, _, reduced = prepared(seed, 0.25)
        network, (exact, _) = reduced.network(0), reduced.joined([0])
        program, rows = Program.of([network], engine.ball, [0]), torch.zeros(40, 1).long()
        generator = torch.Generator().manual_seed(seed)
        v = (2 * torch.rand(len(network.reach), 40, generator=generator).double() - 1) * 0.25
        z, h = exact.forward(exact.reached(v), lambda here, z: z.relu())
        margin = exact.margins(rows, v, exact.outputs(rows) * h)[0]
        point = torch.cat([h, (z > 0).double(), v / 0.25]).numpy()
        rows = program.matrix @ point - program.upper[:, None]
        assert (rows[:-1] < 1e-9).all()
        assert rows[-1] == pytest.approx(margin.numpy())


@pytest.mark.parametrize("size", [1, 2])
def test_dual_values_give_bounds_as_tight_as_the_relaxation(size):
    """Of the whole problem, and of the halves of its first split."""
    close = parts = 0
    for seed in range(6):
        _, engine, _, reduced = prepared(seed, 0.25)
        members, row = list(range(size)), torch.zeros(size, dtype=torch.long)
        networks, (exact, _) = [reduced.network(i) for i in members], reduced.joined(members)
        whole = Program.of(networks, engine.ball, row.tolist())
        for part in (whole, *whole.halves(*whole.relaxation()[1:])):
            t, _, weights = part.relaxation()
            found = leaf(part, exact, engine.ball, row, weights, torch.float64)
            solvable = weights[part.share > 0].sum() > 1 - 1e-9  # or all rows are relaxed
            assert float(found.value) < t + 1e-6 or not solvable
            close += float(found.value) > (t - 1e-5 if solvable else 0)
            assert found.signs[0].tolist() == part.signs[exact.order].tolist()
            parts += 1
    assert close == parts >= 12


def test_trees_take_what_programs_find(monkeypatch):
    monkeypatch.setattr(tree, "_PATIENCE", 0.0)  # before trees decide such small networks
    tally = Counter()
    for seed in range(5):
        model, engine, images, reduced = prepared(seed, 0.3)
        found = searched(reduced)
        for number, pair in enumerate(map(list, PAIRS)):
            answer = most_broken(model, images.x[pair], images.y[pair], 0.3)
            if answer is not None:
                expected = BROKEN if answer[0] == 2 else PROVED
                assert int(found.state[number]) == expected, (seed, pair)
                tally[expected] += 1
    assert min(tally[BROKEN], tally[PROVED]) >= 3, tally


def test_where_a_combination_breaks_all_members_no_other_is_proved(monkeypatch, programs_only):
    made, broken = [], 0
    monkeypatch.setattr(tree, "refuted", lambda *given: made.append(refuted(*given)) or made[-1])
    for seed in range(5):
        _, _, _, reduced = prepared(seed, 0.3)
        for pair in PAIRS:
            found, before = searched(reduced, [pair]), len(made)
            if int(found.state[0]) == BROKEN:
                broken += 1
                assert len(made) == before, (seed, pair)
    assert broken and made


@pytest.mark.parametrize("suited", [False, True])
def test_what_suits_programs_is_not_split_on_whole_networks_for_lack_of_time(monkeypatch, suited):
    monkeypatch.setattr(ReducedImages, "suit_programs", lambda *_: suited)
    reduced = prepared(1, 0.3)[3]
    grown = forest.Forest(reduced, torch.tensor([[0, 1]]), torch.tensor([-1]))
    rows = torch.tensor(list(itertools.product(range(2), repeat=2)))
    grown.plant(torch.zeros_like(rows[:, 0]), rows, Budget())
    roots = int(grown.bounded)
    grown.spent += 20.0  # reduced networks would pay if eight times as much were left
    grown.grow(lambda: [0], Budget.of(30.0, 1), 1 << 28)
    assert grown.reached and (int(grown.bounded) > roots) is not suited


@pytest.fixture
def programs_only(monkeypatch):
    """Trees split nothing, and end once programs have been tried."""

    def give_up(self):
        self.state = OPEN if self._programs_wait else GIVEN_UP

    monkeypatch.setattr(tree, "_PATIENCE", 0.0)
    monkeypatch.setattr(tree.Tree, "_split", give_up)


def test_what_the_solver_alone_calls_safe_is_not_proved(monkeypatch, programs_only):
    monkeypatch.setattr(tree, "refuted", lambda *given: None)
    claimed = 0
    for seed in range(8):
        _, _, _, reduced = prepared(seed, 0.3)
        found = searched(reduced)
        assert (found.state[found.claimed] == GIVEN_UP).all()
        claimed += int(found.claimed.sum())
    assert claimed


def test_what_programs_prove_has_proofs_that_hold(monkeypatch, programs_only, tmp_path):
    pytest.importorskip("onnx")
    made = []
    monkeypatch.setattr(tree, "refuted", lambda *given: made.append(refuted(*given)) or made[-1])
    monkeypatch.setattr(forest, "_WORTH", 0)  # nothing is split before
    for seed in (3, 11, 12):
        model, shape = random_net(KINDS[seed % len(KINDS)], seed, 3)
        x, y = random_images(model, shape, seed, 3)
        net, kept = BoundedNet(model, x).eval(), Proofs(x, y)
        folder = ProofFolder(tmp_path / str(seed), net, Ball(0.2))
        found = certify(net, x, y, 0.2, method="bab", group_size=3, proofs=kept)
        uap = certify_uap(net, x, y, 0.2, certificates=found, group_size=3, proofs=kept)
        folder.store(0, kept, 0, 3, found, uap)
        summary = checker.check_folder(folder.path, folder.network)
        assert (summary.refused, summary.images) == ([], int(found.certified.sum()))
    assert sum(leaves is not None and leaves.size > 1 for leaves in made), made
