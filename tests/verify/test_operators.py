"""Random networks of all operators, and small ones against exact answers, in numbers at night."""

from collections import Counter

import pytest
from exact import BENT_KINDS, IMAGE_KINDS, KINDS, breakable, most_broken, random_images, random_net
from operators import examined

from citrus_lirpa import BoundedNet, GroupAttack, certify, certify_uap

FEW_AND_MANY = [
    pytest.param(10, id="few"),
    pytest.param(900, marks=pytest.mark.nightly, id="nightly"),
]


@pytest.mark.parametrize("networks", FEW_AND_MANY)
def test_no_bound_and_no_certificate_of_a_random_network_is_wrong(networks):
    total = Counter()
    for seed, found in examined(0, networks):
        wrong = [key for key in found if key.startswith(("wrong", "contra")) and found[key]]
        assert not wrong, (seed, wrong)
        total += found
    assert total["accepted"] >= networks // 2 and total["refused"] > 0
    assert total["bounds"] >= 200 * networks // 2 and total["certificates"] >= 10 * networks
    if networks == 900:
        assert total["accepted"] >= 500 and total["bounds"] >= 150_000


def compared(kind: str, seed: int) -> Counter:
    """What certificates and bounds of a small network's group say, against the exact program."""
    model, shape = random_net(kind, seed, 2 + seed % 3)
    x, y = random_images(model, shape, seed, 3, wrong=seed % 7 == 0)
    clip = (0.0, 1.0) if seed % 2 else None
    eps = (0.05, 0.1, 0.2, 0.3)[seed % 4]
    net = BoundedNet(model, x).eval()
    proofs = certify(net, x, y, eps, method="bab", time_limit=0.3, clip=clip)
    group = certify_uap(
        net, x, y, eps, certificates=proofs, group_size=3, time_limit=0.3, clip=clip,
        attack=GroupAttack(steps=5, restarts=1, clip=clip),
    )  # fmt: skip
    tally: Counter = Counter(networks=1)
    alone = breakable(model, x, y, eps, clip=clip is not None)
    for certified, can in zip(proofs.certified.tolist(), alone, strict=True):
        tally["images"] += can is not None
        tally["certified"] += certified
        tally["wrong"] += can is True and certified
    right = proofs.correct  # the others count as broken whatever the perturbation
    together = most_broken(model, x[right], y[right], eps, clip=clip is not None)
    if together is not None:
        survivors = int(right.sum()) - together[0]
        tally["groups"] += 1
        tally["wrong"] += not group.lower.item() <= survivors <= group.upper.item()
    return tally


MANY_KINDS = [*KINDS, *IMAGE_KINDS, *BENT_KINDS]


@pytest.mark.parametrize(
    "networks",
    [
        pytest.param(len(MANY_KINDS), id="few"),
        pytest.param(384, marks=pytest.mark.nightly, id="nightly"),
    ],
)
def test_small_networks_agree_with_the_exact_program(networks):
    total = Counter()
    for seed in range(networks):
        kind = MANY_KINDS[seed % len(MANY_KINDS)]
        found = compared(kind, seed)
        assert not found["wrong"], (kind, seed)
        total += found
    assert total["networks"] == networks and total["groups"] >= networks // 2
    assert total["images"] >= 2 * networks and total["certified"] >= networks // 2
