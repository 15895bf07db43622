#!/usr/bin/env bash
# vnnlib.compat reads == as <=: an input that is given exactly has no lower end.
#
# vnnlib.compat.transform refuses != and takes ==, of which it keeps one half. The box of X == 0.5 goes from minus infinity
# to 0.5, and outputs that have to be equal may be anything below. A verifier that works on its cases decides about more
# inputs than the query has, so that it finds violations outside the query. The two inequalities written out are right.
#
# Seen with vnnlib 1.0.2 on Linux x86-64, Python 3.11 (the box of X, and the rows of Y's polytope):
#   X == 0.5, Y == 3: X from -inf to 0.5, Y <= 3
#   X <= 0.5, X >= 0.5, Y <= 3, Y >= 3: X from 0.5 to 0.5, Y <= 3, -Y <= -3
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet vnnlib==1.0.2
"$work/venv/bin/python" - <<'PY'
import sys

import vnnlib
import vnnlib.compat

HEAD = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1]) (declare-output Y float32 [1]))
"""
QUERIES = (
    (("X", "==", "0.5"), ("Y", "==", "3")),
    (("X", "<=", "0.5"), ("X", ">=", "0.5"), ("Y", "<=", "3"), ("Y", ">=", "3")),
)
found = []
for query in QUERIES:
    text = "\n".join(f"(assert ({sign} {name}[0] {float(number)}))" for name, sign, number in query)
    (case,) = vnnlib.compat.transform(vnnlib.parse_query_string(HEAD + text))
    ((low, high),), (part,) = case.input_box, case.output_constraints
    rows = [(row[0], limit) for row, limit in zip(part.coeff_matrix, part.rhs, strict=True)]
    shown = ", ".join(f"{'-' if sign < 0 else ''}Y <= {limit:g}" for sign, limit in rows)
    print(f"{', '.join(' '.join(part) for part in query)}: X from {low:g} to {high:g}, {shown}")
    found.append((low, high, rows))
exact = (0.5, 0.5, [(1.0, 3.0), (-1.0, -3.0)])
sys.exit(found != [(float("-inf"), 0.5, [(1.0, 3.0)]), exact])
PY
