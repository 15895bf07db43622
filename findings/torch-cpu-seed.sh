#!/usr/bin/env bash
# torch's generator on the CPU ignores the upper 32 bits of a seed.
#
# manual_seed documents seeds from -2**63 to 2**64 - 1, and initial_seed() gives all of the seed back.
# Seeds that differ in the upper 32 bits alone still give the same numbers on the CPU. Seeding one
# stream for each sample by (seed << 32) + number therefore gives one and the same stream to every seed.
#
# Seen with torch 2.11.0 on Linux x86-64, Python 3.11:
#   initial seeds 5 and 4294967301: the same numbers
#   initial seeds 5 and 6: other numbers
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import torch


def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    return generator.initial_seed(), torch.rand(1000, generator=generator)


found = []
for other in (2**32 + 5, 6):
    (a, x), (b, y) = draw(5), draw(other)
    found.append(torch.equal(x, y))
    print(f"initial seeds {a} and {b}: {'the same' if found[-1] else 'other'} numbers")
sys.exit(found != [True, False])
PY
