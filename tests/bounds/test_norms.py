"""Vectors cut to a length, and of length one, however small or large their numbers are."""

import pytest
import torch

from citrus_lirpa.bounds.norms import shortened, unit_vectors


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_no_square_vanishes_or_is_infinite(size):
    v = size * torch.tensor([[[3.0, -4.0]], [[0.3, 0.4]], [[0.0, 0.0]]])
    lengths = shortened(v, size).flatten(1).double().norm(dim=1) / size
    torch.testing.assert_close(lengths, torch.tensor([1.0, 0.5, 0.0]).double())
    ones = torch.tensor([[[0.6, -0.8]], [[0.6, 0.8]], [[0.0, 0.0]]])
    torch.testing.assert_close(unit_vectors(v), ones)


def test_nothing_is_longer_than_zero():
    assert not shortened(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 0.0).any()
