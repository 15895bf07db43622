"""Fixtures of the tests of the verifier: two networks that are small enough to recount."""

import pytest
from networks import deep_net, small_net


@pytest.fixture
def net():
    return small_net()


@pytest.fixture
def deep():
    return deep_net()
