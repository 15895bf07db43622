"""Freed memory that is kept: fewer page faults, which is all that it is for."""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from citrus_lirpa.training.setup import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def fill():
    return torch.ones(2**24)  # 64 MiB, which glibc gives back by default
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNT, how], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_blocks_are_used_again_without_page_faults():
    assert faults("keep") < faults("default") / 2
