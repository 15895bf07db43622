"""setup: threads, and freed memory that is kept for fewer page faults."""

import os
import sys

import pytest
import torch
from command_line import process

from citrus_lirpa.training.config import resolve
from citrus_lirpa.training.setup import build, choose_threads, use_threads


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
