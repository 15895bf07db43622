"""``python -m citrus_lirpa.checker PROOFS MODEL.onnx [--exact]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import Refused, check_folder, read_network


def main() -> int:
    """Check the proofs of a folder; 0 where all hold, 1 where one does not."""
    parser = argparse.ArgumentParser(prog="python -m citrus_lirpa.checker")
    parser.add_argument("proofs", type=Path, help="folder of .npz files that eval --proofs wrote")
    parser.add_argument("model", type=Path, help="the network as an ONNX file")
    parser.add_argument("--exact", action="store_true", help="fractions: for small networks")
    options = parser.parse_args()
    try:
        summary = check_folder(options.proofs, read_network(options.model, exact=options.exact))
    except Refused as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for line in summary.refused:
        sys.stdout.write(f"refused: {line}\n")
    names = {arithmetic for *_, arithmetic in summary.statements}
    sys.stdout.write(
        f"{summary.images} images and {summary.groups} groups hold in "
        f"{' and '.join(sorted(names)) or 'no'} arithmetic; {len(summary.refused)} refusals\n"
    )
    return 1 if summary.refused else 0


if __name__ == "__main__":
    sys.exit(main())
