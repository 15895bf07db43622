#!/usr/bin/env bash
# PuLP loses the constant of the objective in all that it writes: MPS, LP, JSON and dictionaries.
#
# LpProblem.to_dict and toJson are made to keep a problem and take it up again; the problem that from_dict and fromJson
# build has the same optimum less the constant, and pulp.value(objective) says so with the status Optimal. writeMPS and
# writeLP leave it out too. PuLP reads no constant from an MPS file either, and takes a bound MI, "no lower bound", for an
# upper bound of 0 besides. A lower bound of a network's output, taken from such a problem, lacks the bias of its last layer.
#
# Seen with PuLP 3.3.2 and highspy 1.16.0 on Linux x86-64, Python 3.11 (the least x + 10 with x >= 2; then the greatest x
# with x <= 5, and "MI x" in an MPS file):
#   as it is: 12
#   from_dict(to_dict): 2
#   toJson, fromJson: 2
#   writeMPS, fromMPS: 2
#   writeMPS, read by HiGHS: 2
#   writeLP, read by HiGHS: 2
#   MI x: PuLP 0, HiGHS 5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet PuLP==3.3.2 highspy==1.16.0
"$work/venv/bin/python" - "$work" <<'PY'
import sys
from pathlib import Path

import highspy
import pulp

WORK = Path(sys.argv[1])


def by_pulp(problem):
    status = problem.solve(pulp.PULP_CBC_CMD(msg=False))
    return pulp.value(problem.objective) if status == pulp.LpStatusOptimal else None


def by_highs(path):
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.readModel(str(path))
    solver.run()
    return solver.getInfo().objective_function_value


problem = pulp.LpProblem("least", pulp.LpMinimize)
x = pulp.LpVariable("x")
problem += x + 10
problem += x >= 2
problem.toJson(str(WORK / "problem.json"))
problem.writeMPS(str(WORK / "problem.mps"))
problem.writeLP(str(WORK / "problem.lp"))
answers = {
    "as it is": by_pulp(problem),
    "from_dict(to_dict)": by_pulp(pulp.LpProblem.from_dict(problem.to_dict())[1]),
    "toJson, fromJson": by_pulp(pulp.LpProblem.fromJson(str(WORK / "problem.json"))[1]),
    "writeMPS, fromMPS": by_pulp(pulp.LpProblem.fromMPS(str(WORK / "problem.mps"))[1]),
    "writeMPS, read by HiGHS": by_highs(WORK / "problem.mps"),
    "writeLP, read by HiGHS": by_highs(WORK / "problem.lp"),
}
for name, answer in answers.items():
    print(f"{name}: {answer:g}")

path = WORK / "below.mps"
path.write_text("NAME t\nROWS\n N cost\n L row\nCOLUMNS\n x cost -1 row 1\nRHS\n r row 5\nBOUNDS\n MI b x\nENDATA\n")
_, theirs = pulp.LpProblem.fromMPS(str(path))
greatest = [0.0 - value for value in (by_pulp(theirs), by_highs(path))]
print(f"MI x: PuLP {greatest[0]:g}, HiGHS {greatest[1]:g}")
sys.exit(list(answers.values()) + greatest != [12, 2, 2, 2, 2, 2, 0, 5])
PY
