#!/usr/bin/env bash
# torchrun refuses options of the script that are the beginning of several options of its own.
#
# Its help says that what follows the script are the script's arguments. argparse still takes each for a
# shortened option of torchrun: --n 3 after the script ends with "ambiguous option: --n could match
# --nnodes, --nproc-per-node, ..." and status 2. A -- in front of the script passes it on.
#
# Seen with torch 2.11.0 on Linux x86-64, Python 3.11:
#   torchrun show.py --other 3: the script gets --other 3
#   torchrun show.py --n 3: status 2, error: ambiguous option: --n could match --nnodes, [...]
#   torchrun -- show.py --n 3: the script gets --n 3
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.11.0 numpy
cd "$work"
echo 'import sys; print("the script gets", *sys.argv[1:])' > show.py
run() { "$work/venv/bin/torchrun" --standalone "$@" 2>&1 | grep -E "the script gets|error:"; }
run show.py --other 3 | tee other
run show.py --n 3 | tee n || true
run -- show.py --n 3 | tee dashes
grep -q "gets --other 3" other && grep -q "ambiguous option: --n" n && grep -q "gets --n 3" dashes
