"""Fixtures of the tests of the verifier: two small networks to recount, and a clock."""

import time

import pytest
from networks import deep_net, small_net


@pytest.fixture
def net():
    return small_net()


@pytest.fixture
def deep():
    return deep_net()


@pytest.fixture(autouse=True)
def own_time(monkeypatch):
    """Seconds are of this process, so that limits mean the same on a busy machine."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)


@pytest.fixture
def ticking(monkeypatch):
    """Have each look at the clock take so many seconds, and nothing else take any."""

    def tick(seconds):
        now = iter(range(10**9))
        monkeypatch.setattr(time, "perf_counter", lambda: seconds * next(now))

    return tick
