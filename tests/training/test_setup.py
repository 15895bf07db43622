"""setup: devices, threads, and freed memory that is kept for fewer page faults."""

import os
import sys

import pytest
import torch
from command_line import process

from citrus_lirpa.errors import InputError
from citrus_lirpa.training.config import resolve
from citrus_lirpa.training.setup import build, choose_device, choose_threads, use_threads


def test_small_networks_use_one_thread_unless_asked_for_more():
    net, _ = build(resolve(preset="digits"), torch.device("cpu"))
    assert (choose_threads(net, 0), choose_threads(net, 3)) == (1, 3)


def test_more_threads_than_cores_are_never_used(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for wanted in (0, 3, 100_000):
        use_threads(wanted)
    assert asked == [3, 4]


COUNT = """
import resource, torch
from citrus_lirpa.training.setup import keep_freed_memory

def faults():
    torch.ones(2**24)  # 64 MiB, which glibc gives back by default
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

default = faults()
assert keep_freed_memory()
print(default, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_blocks_are_used_again_without_page_faults():
    done = process("-c", COUNT)
    default, kept = map(int, done.stdout.split())
    assert kept < default / 2, done.stderr


@pytest.mark.parametrize("name", ["meta", "hpu", "privateuseone", "vulkan"])
def test_devices_that_torch_has_not_are_refused(name):
    with pytest.raises(InputError, match=f"^device .{name}. cannot be used: .*; try"):
        choose_device(name)


def test_a_device_without_float64_is_refused(monkeypatch):
    def zeros(size, *, dtype=torch.float32, device):
        if dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return torch.empty(size, dtype=dtype)

    monkeypatch.setattr(torch, "zeros", zeros)
    with pytest.raises(InputError, match="'mps' cannot be used: Cannot convert .* to float64"):
        choose_device("mps")
