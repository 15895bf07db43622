"""Do universal queries in VNN-LIB and `certify_uap` agree? Every m of groups of test images.

    python benchmarks/queries.py --data-dir DATA --groups 20 [--seconds 20] [--json FILE]

For each network and group size, the first groups of test images: `certify_uap` bounds how many
images stay right, lower <= truth <= upper. Then each m is asked as a query. "unsat" for m above
the upper bound, or "sat" for m up to the lower bound, is a contradiction.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch

from citrus_lirpa import BoundedNet, certify, certify_uap, data
from citrus_lirpa.formats.query_reader import read_query
from citrus_lirpa.formats.schema import parse_number
from citrus_lirpa.runs.networks import load_network
from citrus_lirpa.verify.queries.decide import decide
from citrus_lirpa.verify.uap_export import export_uap

#: Network, ε, group size.
ROWS = (
    ("zoo:mnist-0.1-convsmall-citrus", "0.1", 2),
    ("zoo:mnist-0.1-convsmall-citrus", "0.15", 5),
    ("zoo:mnist-0.1-convsmall", "0.1", 2),
    ("zoo:mnist-0.1-convsmall", "0.15", 5),
    ("zoo:mnist-0.3-convsmall", "0.3", 2),
    ("zoo:mnist-0.3-convsmall", "0.3", 5),
    ("zoo:cifar10-2-255-convsmall", "2/255", 2),
    ("zoo:cifar10-2-255-convsmall", "2/255", 5),
    ("zoo:cifar10-8-255-convsmall", "8/255", 2),
    ("zoo:cifar10-8-255-convsmall", "8/255", 5),
)


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default="data")
@click.option("--groups", default=20, help="Groups of each row.")
@click.option("--seconds", default=20.0, help="Time limit of a query, and of a group.")
@click.option("--json", "record", type=click.Path(path_type=Path))
def main(data_dir: Path, groups: int, seconds: float, record: Path | None) -> None:
    """Print a line for each network."""
    torch.set_num_threads(1)
    rows = []
    for name, eps, k in ROWS:
        row = compare(name, parse_number(eps), k, data_dir, groups, seconds)
        rows.append({"network": name, "eps": eps, "group_size": k, **row})
        print(json.dumps(rows[-1]), flush=True)
    if record is not None:
        record.write_text(json.dumps(rows, indent=2) + "\n")


def compare(
    name: str, eps: float, k: int, data_dir: Path, groups: int, seconds: float
) -> dict[str, object]:
    network = load_network(Path(name), None, eps, None)
    split = data.load(network.spec.name, train=False, data_dir=data_dir)
    net = BoundedNet(network.model, torch.zeros(2, *network.spec.shape)).eval()
    counts: Counter[str] = Counter()
    asked = answered = 0.0
    with TemporaryDirectory() as folder:
        out = Path(folder) / "queries"
        exported = export_uap(
            network.model, split, network.spec, out, images=range(groups * k), group_size=k, eps=eps
        )
        for number, images in enumerate(exported["groups"]):
            if len(images) < 2:
                continue  # no group
            x, y = split.pixels(images), split.labels[images]
            begin = time.perf_counter()
            found = certify(net, x, y, eps, method="bab", time_limit=seconds)
            bounds = certify_uap(
                net, x, y, eps, group_size=len(x), certificates=found, time_limit=seconds
            )
            asked += time.perf_counter() - begin
            lower, upper = int(bounds.lower), int(bounds.upper)
            for query in (q for q in exported["queries"] if q["group"] == number):
                begin = time.perf_counter()
                answer = decide(
                    read_query(out / query["query"]), {"N0": out / "model.onnx"}, seconds
                )
                answered += time.perf_counter() - begin
                m, verdict = query["at_least"], answer.verdict
                wrong = (verdict == "unsat" and m > upper) or (verdict == "sat" and m <= lower)
                known = "unsat" if m <= lower else "sat" if m > upper else "open"
                counts["contradictions" if wrong else f"{known} here, {verdict} as a query"] += 1
    return {**counts, "seconds": round(asked, 1), "seconds of queries": round(answered, 1)}


if __name__ == "__main__":
    main()
