"""Programs of reduced networks, against the exact program of ``exact``."""

import itertools
from collections import Counter

import pytest
import torch
from exact import KINDS, most_broken, random_images, random_net, smallest_margins

from citrus_lirpa import BoundedNet, certify
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.verify.budget import Budget
from citrus_lirpa.verify.crown import tree
from citrus_lirpa.verify.crown.branch_and_bound import Problems, branch_and_bound
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.crown.program import Program
from citrus_lirpa.verify.crown.proofs import Proofs
from citrus_lirpa.verify.crown.reduced_images import ReducedImages
from citrus_lirpa.verify.crown.tree import BROKEN, GIVEN_UP, OPEN, PROVED


def prepared(seed, eps):
    model, shape = random_net(KINDS[seed % len(KINDS)], seed, 3)
    x, y = random_images(model, shape, seed, 3)
    engine = DualEngine(BoundedNet(model, x).eval(), Ball(eps))
    images = engine.refined(engine.ibp(x, y)[0])
    return model, engine, images, ReducedImages(engine, images)


PAIRS = list(itertools.combinations(range(3), 2))


def searched(reduced):
    """What branch and bound finds of all pairs of three images."""
    rows = list(itertools.product(range(2), repeat=2))
    owners = torch.arange(3).repeat_interleave(4)
    problems = Problems(torch.tensor(PAIRS), owners, torch.tensor(rows * 3))
    return branch_and_bound(reduced, problems, Budget.of(30.0, 1))


def programs(engine, reduced, members):
    """Those of all combinations of margins that would break the members."""
    exact = [reduced.networks(i)[0] for i in members]
    for rows in itertools.product(range(2), repeat=len(members)):
        yield Program.of(exact, engine.ball, rows)


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
            answers = [program.search(60.0) for program in each]
            refuted = [program.refuted() for program in each]
            can_break = answer[0] == size
            assert all(refuted) is not can_break, (seed, members)
            assert all(found.impossible for found in answers) is not can_break, (seed, members)
            if can_break:
                u = next(found.u for found in answers if found.u is not None).float()
                assert (u.abs() <= eps * (1 + 1e-6)).all()
                assert (smallest_margins(model, x, y, u, False) < 1e-5).all()
            tally[can_break] += 1
    assert min(tally[True], tally[False]) >= 3, tally


def test_any_weights_of_rows_bound_what_every_perturbation_reaches():
    """The sum of rows is at most its value at what the network does under a perturbation."""
    for seed in range(6):
        _, engine, _, reduced = prepared(seed, 0.25)
        network = reduced.networks(0)[0]
        program = Program.of([network], engine.ball, [0])
        generator = torch.Generator().manual_seed(seed)
        v = (2 * torch.rand(len(network.reach), 40, generator=generator).double() - 1) * 0.25
        z, h = network.forward(v, lambda here, z: z.relu())
        margin, _ = network.margins(v, torch.zeros(40, dtype=torch.long))
        point = torch.cat([h, (z > 0).double(), v / 0.25]).numpy()
        rows = program.matrix @ point - program.upper[:, None]
        assert (rows[:-1] < 1e-9).all()
        assert rows[-1] == pytest.approx(margin.numpy())
        further = program.with_violated(program.relaxation()[1])
        if further is not None:
            assert ((further.matrix @ point - further.upper[:, None])[len(rows) :] < 1e-9).all()
            program, rows = further, further.matrix @ point - further.upper[:, None]
        weights = torch.rand(len(rows), generator=generator).double().numpy()
        assert program.least_sum(weights) <= (weights @ rows).min()


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


def test_what_the_solver_alone_calls_safe_is_not_proved(monkeypatch):
    monkeypatch.setattr(tree, "_PATIENCE", 0.0)
    monkeypatch.setattr(Program, "refuted", lambda self, least: False)

    def give_up(self):
        """Split nothing; end once programs have been tried."""
        self.state = OPEN if self._programs_wait else GIVEN_UP

    monkeypatch.setattr(tree.Tree, "_split", give_up)
    claimed = 0
    for seed in range(8):
        _, _, _, reduced = prepared(seed, 0.3)
        found = searched(reduced)
        assert (found.state[found.claimed] == GIVEN_UP).all()
        claimed += int(found.claimed.sum())
    assert claimed


def test_every_certificate_has_a_proof_where_proofs_are_kept(monkeypatch):
    """Files of proofs have no place for programs, so trees prove what is to be written."""
    monkeypatch.setattr(tree, "_PATIENCE", 0.0)
    split = 0
    for seed in (3, 11, 12):
        model, shape = random_net(KINDS[seed % len(KINDS)], seed, 3)
        x, y = random_images(model, shape, seed, 3)
        kept = Proofs(x, y)
        found = certify(BoundedNet(model, x).eval(), x, y, 0.2, method="bab", proofs=kept)
        assert [kept.certified(i) for i in range(3)] == found.certified.tolist()
        split += int((found.decided_by == found.methods.index("bab")).sum())
    assert split
