"""Times steps as benchmarks/gpu/first.py does, on the pretended GPU; prints the rows as JSON."""

import pretend_cuda  # before torch

# isort: split

import json
import sys
from pathlib import Path
from unittest import mock

import pretend_graphs
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "gpu"))
import first

if __name__ == "__main__":
    torch.set_num_threads(1)
    cases = [("paper", 5, "tf32"), ("large", 10, "bfloat16")]
    with (
        pretend_cuda.Pretended() as seen,
        mock.patch.multiple(first, CASES=cases, SMALL_STEPS=6),
    ):
        rows = first.step_times(torch.device("cuda"), True, float("inf"))
    print(json.dumps({"rows": rows, "mixed": seen.mixed, "graphs": pretend_graphs.Graph.count}))
