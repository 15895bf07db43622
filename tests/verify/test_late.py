"""How many images each stage leaves open for lack of time."""

import time
from dataclasses import replace

import pytest
from networks import fitted, images
from torch import nn

from citrus_lirpa import certify
from citrus_lirpa.verify import Certificates
from citrus_lirpa.verify.crown.engine import DualEngine
from citrus_lirpa.verify.unfinished import Unfinished


@pytest.mark.parametrize("seconds", [0.05, 0.2])
def test_what_branch_and_bound_leaves_is_late(deep, ticking, seconds):
    """Images come to their own limit in the first case, and to that of all in the second."""
    x, y = images(deep, 40)
    ticking(1e-6)
    assert certify(deep, x, y, 0.08, method="bab").verdicts().count("undecided") == 0
    ticking(seconds)
    found = certify(deep, x, y, 0.08, method="bab", time_limit=1.0)
    assert found.late["bab"] == found.verdicts().count("undecided") > 0


def test_what_branch_and_bound_cannot_split_is_not_late(ticking):
    net = fitted(
        *(nn.Flatten(), nn.Linear(16, 14), nn.Tanh()),
        *(nn.Linear(14, 10), nn.Tanh(), nn.Linear(10, 3)),
    )
    x, y = images(net, 12)
    ticking(1e-6)
    found = certify(net, x, y, 0.1, method="bab")
    assert "undecided" in found.verdicts() and set(found.late.values()) == {0}


def test_images_that_no_stage_reached_are_late_in_all(deep, monkeypatch):
    """IBP has the half of 120 seconds, and takes 61 for the second of its batches."""
    ibp, sizes, clock = DualEngine.ibp, [], time.perf_counter
    monkeypatch.setattr(DualEngine, "ibp", lambda *a: sizes.append(len(a[1])) or ibp(*a))
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 61 * (len(sizes) > 1))
    x, y = images(deep, 100)
    given = dict(method="alpha-crown", time_limit=1.2, batch_size=100)
    found = certify(deep, x, y, 0.05, **given)
    first, reached = sizes[0], sum(sizes)
    assert 0 < reached < 100
    cut = int((found.open | (found.decided_by > 0))[first:reached].sum())
    assert found.late == {
        "ibp": cut + 100 - reached,
        **dict.fromkeys(found.methods[1:], 100 - reached),
    }


def test_images_whose_bounds_are_cut_short_are_late(deep, monkeypatch):
    """CROWN has no time at all left, and the stages before it all that they need."""
    tightened, begun, clock = DualEngine.tightened, [], time.perf_counter

    def watched(*args, **options):
        begun.append(args)
        return tightened(*args, **options)

    monkeypatch.setattr(DualEngine, "tightened", watched)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 3600 * len(begun))
    x, y = images(deep, 60)
    found = certify(deep, x, y, 0.3, method="crown", batch_size=64)
    assert found.late == {"ibp": 0, "crown-ibp": 0, "crown": int(found.open.sum())}


def test_what_a_run_that_was_stopped_cut_short_is_counted(deep, monkeypatch):
    """CROWN's first margins take 3,600 of 6,000 seconds, of which it has the half.

    The next run has the time for the others, and is not to forget those.
    """
    tightened, margins, clock = DualEngine.tightened, DualEngine.margins, time.perf_counter
    begun, cut, stops = [], [], [KeyboardInterrupt()]

    def bounded(engine, images, rows, iterations):
        if iterations and stops:
            raise stops.pop()
        lower, proved = margins(engine, images, rows, iterations)
        if begun and not cut:
            cut.append(int((rows & ~proved).any(1).sum()))
        return lower, proved

    monkeypatch.setattr(DualEngine, "tightened", lambda *a: begun.append(a) or tightened(*a))
    monkeypatch.setattr(DualEngine, "margins", bounded)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 3600 * bool(cut))
    x, y = images(deep, 60)
    given = dict(method="alpha-crown", time_limit=100.0, batch_size=64, unfinished=Unfinished())
    with pytest.raises(KeyboardInterrupt):
        certify(deep, x, y, 0.3, **given)
    assert not stops and cut[0] > 0
    found = certify(deep, x, y, 0.3, **given)
    assert found.late == {"ibp": 0, "crown-ibp": 0, "crown": cut[0], "alpha-crown": 0}


def test_counts_of_batches_add_up_beside_one_that_an_earlier_version_saved(deep):
    x, y = images(deep, 4)
    found = certify(deep, x, y, 0.1, method="ibp")
    parts = [replace(found, late=late) for late in ({}, {"ibp": 2}, {"ibp": 1, "crown": 3})]
    assert Certificates.cat(parts).late == {"ibp": 3, "crown": 3}
