#!/usr/bin/env bash
# python-mip solves another problem than its files describe: it forces indicators, drops squares and SOS, and forgets "max".
#
# Its reader of LP files (CBC's) takes what it does not know for something else. "z = 1 -> x <= 3" becomes the constraint
# z = 1 and a second one with a new variable that is called ">"; "[ x ^2 ] <= 9" gets three new variables. A square in the
# objective and a set SOS1 are dropped without a word. The status is OPTIMAL, with a value that the problem cannot reach.
# Encodings of ReLU networks use indicators and SOS1. Model.write loses data as well: the MPS file of a maximisation has its
# objective as it was, without OBJSENSE, so that whoever reads it minimises, python-mip too.
#
# Seen with mip 2.0.0 and PySCIPOpt 6.3.0 on Linux x86-64, Python 3.11 (least or greatest values):
#   z = 0 or 1, z = 1 -> x <= 3, x <= 10, greatest x + z: SCIP 10, python-mip 11
#   one of x <= 3 and y <= 4 may be above 0 (SOS1), greatest x + y: SCIP 4, python-mip 7
#   x^2 <= 9, greatest x <= 10: SCIP 3, python-mip 9
#   x >= 4, least x^2: SCIP 16, python-mip 0
#   x + y <= 6, greatest x + y, written to MPS by python-mip: SCIP 0, python-mip 0, before it was written 6
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mip==2.0.0 PySCIPOpt==6.3.0
"$work/venv/bin/python" - "$work" <<'PY'
import sys
from pathlib import Path

import mip
import pyscipopt

WORK = Path(sys.argv[1])
PROBLEMS = {
    "z = 0 or 1, z = 1 -> x <= 3, x <= 10, greatest x + z": """Maximize
 obj: x + z
Subject To
 most: x <= 10
 rule: z = 1 -> x <= 3
Binaries
 z
End
""",
    "one of x <= 3 and y <= 4 may be above 0 (SOS1), greatest x + y": """Maximize
 obj: x + y
Subject To
 most: x + y <= 10
Bounds
 x <= 3
 y <= 4
SOS
 either: S1:: x:1 y:2
End
""",
    "x^2 <= 9, greatest x <= 10": """Maximize
 obj: x
Subject To
 square: [ x ^2 ] <= 9
Bounds
 x <= 10
End
""",
    "x >= 4, least x^2": """Minimize
 obj: [ 2 x ^2 ] / 2
Subject To
 least: x >= 4
End
""",
}


def by_scip(path):
    model = pyscipopt.Model()
    model.hideOutput()
    model.readProblem(str(path))
    model.optimize()
    return round(model.getObjVal(), 6) + 0.0


def solved(model):
    model.verbose = 0
    return round(model.objective_value, 6) + 0.0 if model.optimize() == mip.OptimizationStatus.OPTIMAL else None


def by_mip(path):
    model = mip.Model()
    model.read(str(path))
    return solved(model)


found = []
for name, text in PROBLEMS.items():
    path = WORK / "problem.lp"
    path.write_text(text)
    found.append((by_scip(path), by_mip(path)))
    print(f"{name}: SCIP {found[-1][0]:g}, python-mip {found[-1][1]:g}", flush=True)

model = mip.Model(sense=mip.MAXIMIZE)
x, y = model.add_var("x"), model.add_var("y")
model += x + y <= 6
model.objective = x + y
model.write(str(WORK / "written.mps"))
(path,) = WORK.glob("written*")
found.append((by_scip(path), by_mip(path), solved(model)))
theirs = f"SCIP {found[-1][0]:g}, python-mip {found[-1][1]:g}, before it was written {found[-1][2]:g}"
print(f"x + y <= 6, greatest x + y, written to MPS by python-mip: {theirs}")
sys.exit(found != [(10, 11), (4, 7), (3, 9), (16, 0), (0, 0, 6)])
PY
