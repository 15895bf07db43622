"""ε of each pixel, zero where nothing moves: right in every stage, by exact answers and attacks."""

import functools
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from exact import KINDS, breakable, most_broken, random_images, random_net, smallest_margins
from fuzzing import sizes
from networks import QUICK, deep_net, images, small_net, table_net, without_dual_engine
from reference import CLASSIFYING, make

from citrus_lirpa import (
    PGD,
    BoundedNet,
    Box,
    GroupAttack,
    SgdUap,
    certify,
    certify_uap,
    checker,
    evaluate,
)
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.bounds.margins import logit_margins
from citrus_lirpa.data.types import DatasetSpec, Split
from citrus_lirpa.errors import InputError
from citrus_lirpa.verify import Protocol
from citrus_lirpa.verify.crown.proofs import Proofs
from citrus_lirpa.verify.proof_files import ProofFolder
from citrus_lirpa.verify.relational import RELATIONAL

LIMITS = {False: None, True: (0.0, 1.0)}


def random_map(shape, largest=0.4):
    """ε of each pixel: a third of them zero, the others up to ``largest``."""
    eps = largest * torch.rand(shape, dtype=torch.float64)
    eps[torch.rand(shape) < 1 / 3] = 0
    eps.view(-1)[0] = largest
    return eps


# ------------------------------------------------------------------ against exact answers


@sizes(3, 5)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_images_are_certified_only_where_the_exact_program_finds_nothing(kind, clip, cases):
    tally = Counter()
    for seed in range(cases):
        torch.manual_seed(seed)
        model, shape = random_net(kind, seed)
        x, y = random_images(model, shape, seed, 4)
        eps = random_map(shape)
        proofs = certify(
            BoundedNet(model, x).eval(), x, y, eps, method="bab", time_limit=1.0,
            clip=LIMITS[clip], attack=PGD(steps=5, clip=LIMITS[clip]),
        )  # fmt: skip
        for verdict, can in zip(
            proofs.verdicts(), breakable(model, x, y, eps, clip=clip), strict=True
        ):
            safe = verdict in proofs.methods
            assert can is None or not (can and safe) and not (not can and verdict == "attacked")
            tally[verdict] += 1
    assert tally["undecided"] <= 0.2 * tally.total(), tally


@functools.cache
def group(kind, clip):
    """A network, four images, a map, the exact answer for them and what is proved of each alone."""
    seed = KINDS.index(kind)
    torch.manual_seed(seed)
    model, shape = random_net(kind, 100 + seed)
    x, y = random_images(model, shape, seed, 4)
    eps = random_map(shape, 0.5)
    proofs = certify(
        BoundedNet(model, x).eval(), x, y, eps, method="alpha-crown", clip=LIMITS[clip]
    )
    return model, x, y, eps, most_broken(model, x, y, eps, clip=clip), proofs


@sizes(1, 2)
@pytest.mark.parametrize("relational", RELATIONAL)
def test_groups_are_enclosed_by_every_group_stage(relational, cases):
    """Each kind is clipped or not in CI, both every night."""
    reached = answers = 0
    for number, clip in itertools.product(range(len(KINDS)), LIMITS):
        if cases == 1 and clip != number % 2:
            continue
        kind = KINDS[number]
        model, x, y, eps, answer, proofs = group(kind, clip)
        if answer is None:
            continue
        found = certify_uap(
            BoundedNet(model, x).eval(), x, y, eps, group_size=4, certificates=proofs,
            relational=relational, time_limit=2.0, clip=LIMITS[clip],
            attack=GroupAttack(steps=5, restarts=2, clip=LIMITS[clip]),
        )  # fmt: skip
        assert int(found.lower) <= 4 - answer[0] <= int(found.upper)
        assert bool((found.u[0].abs().double() <= eps * (1 + 1e-6)).all())
        broken = smallest_margins(model, x, y, found.u[0], clip) < 0
        assert int(broken.sum()) <= 4 - int(found.lower)
        reached += int(found.lower) == 4 - answer[0]
        answers += 1
    assert answers >= 0.75 * cases * len(KINDS) and reached >= 0.3 * answers


# ------------------------------------------------------------------ against attacks


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
@pytest.mark.parametrize("net", [small_net, deep_net])
def test_bounds_on_maps_hold_at_random_points_and_corners(net, method):
    torch.manual_seed(3)
    net = net()
    x, y = images(net, 6)
    eps = random_map((1, 4, 4))
    box = Box.around(x, eps)
    assert bool((box.radius[:, eps == 0] == 0).all())
    lower = net.margins(box, y, method)
    for number in range(200):
        share = 2 * torch.rand(x.shape) - 1
        share = share.sign() if number % 2 else share
        moved = (x + share * eps).clamp(0, 1).float()
        assert bool((logit_margins(net(moved), y) >= lower - 1e-5).all())


@pytest.mark.parametrize("own", [True, False])
def test_what_either_engine_certifies_resists_attack(own):
    torch.manual_seed(5)
    certified = 0
    for _ in range(4):
        net = deep_net()
        if not own:
            without_dual_engine(net)
        x, y = images(net, 10)
        eps = random_map((1, 4, 4), 0.1)
        proofs = certify(net, x, y, eps, method="alpha-crown")
        v = PGD(steps=40, restarts=5, clip=None)(net, x, y, eps)
        safe = net(x + v).argmax(1) == y
        assert bool(safe[proofs.certified].all())
        certified += int(proofs.certified.sum())
    assert certified > 0


def test_attacks_leave_pixels_without_radius_alone():
    torch.manual_seed(0)
    net = small_net()
    x, y = images(net, 12)
    eps = random_map((1, 4, 4))
    fixed = eps == 0
    v = PGD(steps=5)(net, x, y, eps)
    groups = GroupAttack(steps=5)(net, x.view(3, 4, 1, 4, 4), y.view(3, 4), eps).u
    u = SgdUap(epochs=2)(net, x, y, eps).u
    for found in (v, groups[:, 0], u):
        assert bool((found[:, fixed] == 0).all()) and found.dtype == x.dtype
        assert bool((found.abs().double() <= eps * (1 + 1e-6)).all()) and bool((found != 0).any())


@pytest.mark.parametrize("name", [n for n in CLASSIFYING if n not in ("gaussian", "smoothadv")])
def test_losses_bound_and_attack_only_where_there_is_a_radius(name):
    """Those two sample noise everywhere, whatever ε is."""
    torch.manual_seed(0)
    net = deep_net().train()
    x, y = images(net, 6)
    eps = random_map((1, 4, 4), 0.2)
    terms = make(name, 0.2)(net, x, y, eps)
    terms.total.backward()
    fixed = eps == 0
    wide = terms.box.radius[:, fixed].max()
    assert float(wide) <= (2e-6 if terms.bounds is None else 0)  # points stand in as tiny boxes
    if terms.perturbations is not None:
        assert bool((terms.perturbations[:, fixed] == 0).all())
    assert all(w.grad is None or bool(w.grad.isfinite().all()) for w in net.parameters())


def test_a_patch_is_certified_where_its_whole_image_is_not():
    torch.manual_seed(1)
    net = deep_net()
    x, y = images(net, 20)
    eps = torch.zeros(1, 4, 4)
    eps[:, :2, :2] = 0.15
    whole, patch = (certify(net, x, y, e, method="bab") for e in (0.15, eps))
    assert bool((patch.certified | ~whole.certified).all())
    assert int(patch.certified.sum()) > int(whole.certified.sum())


def test_tables_take_an_eps_for_each_feature():
    net, x, y = table_net(6)
    eps = torch.tensor([0.3, 0, 0.05, 0, 0.1, 0])
    proofs = certify(net, x, y, eps, method="bab")
    assert [can is False for can in breakable(net.module, x, y, eps)] == proofs.certified.tolist()
    found = certify_uap(net, x, y, eps.numpy(), group_size=3, certificates=proofs, attack=QUICK)
    assert bool((found.u[:, eps == 0] == 0).all())


def test_a_map_of_one_value_is_that_number():
    torch.manual_seed(4)
    net = deep_net()
    x, y = images(net, 8)
    number = certify(net, x, y, 0.1)
    same = certify(net, x, y, torch.full((1, 4, 4), 0.1, dtype=torch.float64))
    assert same.eps == 0.1 and torch.equal(number.margin, same.margin)
    certify_uap(net, x, y, 0.1, group_size=4, certificates=same, attack=QUICK)


# ------------------------------------------------------------------ records and proofs


def test_certificates_of_another_map_are_refused():
    torch.manual_seed(4)
    net = deep_net()
    x, y = images(net, 8)
    a, b = random_map((1, 4, 4)), random_map((1, 4, 4))
    proofs = certify(net, x, y, a)
    with pytest.raises(InputError, match=r"ε = a map up to 0\.4 .* not of ε = a map up to 0\.4"):
        certify_uap(net, x, y, b, group_size=4, certificates=proofs)
    with pytest.raises(InputError, match=r"not of ε = 0\.4"):
        certify_uap(net, x, y, 0.4, group_size=4, certificates=proofs)


@pytest.mark.parametrize("clip", [False, True])
def test_proofs_of_maps_hold_and_those_of_changed_maps_do_not(tmp_path, clip):
    pytest.importorskip("onnx")
    torch.manual_seed(1)
    net = deep_net()
    x, y = images(net, 8, wrong=[2])
    eps, limits = random_map((1, 4, 4), 0.15), LIMITS[clip]
    kept, made = Proofs(x, y), ProofFolder(tmp_path, net, Ball(eps, limits))
    shared = dict(clip=limits, group_size=4, time_limit=5, proofs=kept)
    found = certify(net, x, y, eps, method="bab", **shared)
    quick = GroupAttack(steps=5, restarts=1, clip=limits)
    uap = certify_uap(net, x, y, eps, certificates=found, attack=quick, **shared)
    made.store(0, kept, 0, 4, found, uap)
    figures = made.figures(uap)
    assert (figures.images, figures.groups) == (int(found.certified.sum()), 2) and figures.images
    networks = [checker.read_network(tmp_path / "model.onnx", exact=e) for e in (False, True)]
    for network in networks:
        summary = checker.check_folder(tmp_path, network)
        assert summary.refused == [] and summary.images == figures.images
    file = tmp_path / "00000.npz"
    with np.load(file) as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    for other in (changed["eps_map"] * 2, changed["eps_map"][:, :2]):
        np.savez(file, **{**changed, "eps_map": other})
        for network in networks:
            assert "map of eps is another" in checker.check_folder(tmp_path, network).refused[0]


def test_an_evaluation_records_the_map():
    torch.manual_seed(6)
    net = deep_net()
    x, y = images(net, 12)
    spec = DatasetSpec(name="made", shape=(1, 4, 4), class_names=("a", "b", "c"), loader=None)
    eps = random_map((1, 4, 4), 0.1)
    record = evaluate(net, Split(x, y), spec, Protocol(eps=eps, group_size=4)).record()
    again = evaluate(net, Split(x, y), spec, Protocol(eps=0.1, group_size=4)).record()
    assert record["eps"] == again["eps"] == 0.1
    assert len(record["eps_map"]) == 64 and "eps_map" not in again
    assert record["uap_accuracy"]["certified"] >= again["uap_accuracy"]["certified"]


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        (torch.full((1, 4, 5), 0.1), r"broadcasts to the inputs, \(1, 1, 4, 4\)"),
        (torch.full((8, 1, 1, 1), 0.1), r"broadcasts to the inputs, \(1, 1, 4, 4\)"),
        (torch.tensor([0.1, 0.1, -0.1, 0.1]).view(1, 4, 1), "finite number >= 0"),
        (np.array([[0.1, np.nan, 0.1, 0.1]]), "finite number >= 0"),
        (np.array([["a"]]), "finite number >= 0"),
    ],
)
def test_a_map_that_does_not_fit_is_refused_in_one_line(eps, message):
    torch.manual_seed(0)
    net = small_net()
    x, y = images(net, 8)
    with pytest.raises(InputError, match=f"^ε is .*{message}") as refused:
        certify(net, x, y, eps)
    assert "\n" not in str(refused.value)
