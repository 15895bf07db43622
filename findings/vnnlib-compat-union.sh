#!/usr/bin/env bash
# vnnlib.compat joins the assertions of a query by "or" where several of them are no plain comparison.
#
# A query asks for a point that meets all its assertions. vnnlib.compat.transform turns it into a list of cases, each a box
# of inputs and a union of polytopes of outputs. A comparison goes into every case, but each assertion that is an
# `and` or an `or` gives cases of its own, which stand beside the others instead of being intersected with them. With the
# box in one `and` and the outputs in one `or`, a usual way to write it, the first case has all inputs and the second all
# outputs: a verifier that works on the cases reports a violation of any network. Of two `or`, it finds what meets one.
# One `and` around everything is right, and so is a bound for each assertion with a single `or`.
#
# Seen with vnnlib 1.0.2 on Linux x86-64, Python 3.11 (0 <= X <= 1, and Y <= 1 or Y >= 5; whether X, Y is in a case):
#   by the query: 0.5, 0 yes; 0.5, 3 no; 7, 0 no
#   one assertion: 0.5, 0 yes; 0.5, 3 no; 7, 0 no
#   bounds one by one, then the or: 0.5, 0 yes; 0.5, 3 no; 7, 0 no
#   bounds in an and, then the or: 0.5, 0 yes; 0.5, 3 yes; 7, 0 yes
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
QUERIES = {
    "one assertion": "(assert (and (>= X[0] 0.0) (<= X[0] 1.0) (or (<= Y[0] 1.0) (>= Y[0] 5.0))))",
    "bounds one by one, then the or": """
        (assert (>= X[0] 0.0))
        (assert (<= X[0] 1.0))
        (assert (or (<= Y[0] 1.0) (>= Y[0] 5.0)))""",
    "bounds in an and, then the or": """
        (assert (and (>= X[0] 0.0) (<= X[0] 1.0)))
        (assert (or (<= Y[0] 1.0) (>= Y[0] 5.0)))""",
}
POINTS = ((0.5, 0), (0.5, 3), (7, 0))


def covered(cases, x, y):
    """Whether a case has this input in its box and this output in one of its polytopes."""
    return any(
        low <= x <= high
        and any(
            all(row[0] * y <= limit for row, limit in zip(part.coeff_matrix, part.rhs, strict=True))
            for part in case.output_constraints
        )
        for case in cases
        for low, high in case.input_box
    )


def told(name, answers):
    shown = zip(POINTS, answers, strict=True)
    answers = [f"{x}, {y} {'yes' if inside else 'no'}" for (x, y), inside in shown]
    print(f"{name}: {'; '.join(answers)}")


true = [0 <= x <= 1 and (y <= 1 or y >= 5) for x, y in POINTS]
told("by the query", true)
right = []
for name, text in QUERIES.items():
    cases = vnnlib.compat.transform(vnnlib.parse_query_string(HEAD + text))
    answers = [covered(cases, *point) for point in POINTS]
    told(name, answers)
    right.append(answers == true)
sys.exit(right != [True, True, False])
PY
