"""What benchmarks/floor.py counts and measures."""

import pytest
import torch
from torch import nn


@pytest.fixture
def floor(script):
    return script("floor")


def test_operations_are_counted(floor):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)
    )
    work = floor.Work.of(model, torch.rand(1, 2, 5, 5))
    first, last = 2 * (4 * 3 * 3) * (2 * 3 * 3), 2 * 36 * 5
    assert work == floor.Work(first + last, first) and model.training
    assert work.step(20, 4) == (40 * (first + last), 9 * (2 * first + 3 * last))
    peaks = {"float32": 1e3, "bfloat16": 4e3}
    assert work.seconds(1, 0, peaks) == pytest.approx((4 * first + 5 * last) / 1e3)
    assert work.seconds(1, 0, peaks, rounded=True) < work.seconds(1, 0, peaks)


def test_rates_are_measured(floor, monkeypatch):
    monkeypatch.setattr(floor, "SECONDS", 0.05)
    rates = floor.rates("cpu")
    assert len(rates) == 4 and min(rates.values()) > 1e6
    assert floor.peaks("cpu")["float32"] == max(v for k, v in rates.items() if "float32" in k)
