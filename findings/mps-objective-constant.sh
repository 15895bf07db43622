#!/usr/bin/env bash
# The constant of an objective in an MPS file: HiGHS takes another row's, GLPK turns its sign, python-mip leaves it out.
#
# An objective c x + k has the right-hand side -k in an MPS file (CPLEX's and Gurobi's rule, which SCIP, HiGHS and OR-Tools
# follow). GLPK reads and writes k itself, so that an optimum moves by 2 k from one solver to the next. python-mip (CBC)
# reads no k. HiGHS looks at the objective's right-hand side, but also at that of every other row of type N; such rows are
# no part of the problem, and it drops their coefficients. None of the three warns. A bound on a network's output that
# comes from such a file is off by the constant, which is where the biases of the last layer go.
#
# Seen with highspy 1.16.0, swiglpk 5.0.13, mip 2.0.0 and PySCIPOpt 6.3.0 on Linux x86-64, Python 3.11 (the least x + k
# with x >= 2; all files but GLPK's have a second row of type N):
#   k = 0: SCIP 2, HiGHS 2, GLPK 2, python-mip 2
#   k = 10: SCIP 12, HiGHS 12, GLPK -8, python-mip 2
#   k = 0, right-hand side of the other row -10: SCIP 2, HiGHS 12, GLPK 2, python-mip 2
#   written by GLPK, k = 10: SCIP -8, HiGHS -8, GLPK 12, python-mip 2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet highspy==1.16.0 swiglpk==5.0.13 mip==2.0.0 PySCIPOpt==6.3.0
"$work/venv/bin/python" - "$work" <<'PY'
import sys
from pathlib import Path

import highspy
import mip
import pyscipopt
import swiglpk

WORK = Path(sys.argv[1])


def problem(objective, other=0):
    """Least x with x >= 2, with these right-hand sides of the objective and of a second row of type N."""
    columns = "NAME t\nROWS\n N cost\n N time\n G row\nCOLUMNS\n x cost 1 row 1\n x time 3\n"
    constant = f"time {other}" if other else f"cost {objective}"
    return f"{columns}RHS\n r row 2 {constant}\nENDATA\n"


def by_scip(path):
    model = pyscipopt.Model()
    model.hideOutput()
    model.readProblem(path, "mps")
    model.optimize()
    return model.getObjVal()


def by_highs(path):
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    quiet = solver.readModel(path) == highspy.HighsStatus.kOk
    solver.run()
    return solver.getInfo().objective_function_value if quiet else None


def by_glpk(path):
    swiglpk.glp_term_out(swiglpk.GLP_OFF)
    theirs = swiglpk.glp_create_prob()
    swiglpk.glp_read_mps(theirs, swiglpk.GLP_MPS_FILE, None, path)
    swiglpk.glp_simplex(theirs, None)
    return swiglpk.glp_get_obj_val(theirs)


def by_mip(path):
    model = mip.Model()
    model.verbose = 0
    model.read(path)
    model.optimize()
    return model.objective_value


def write_by_glpk(path):
    theirs = swiglpk.glp_create_prob()
    swiglpk.glp_add_cols(theirs, 1)
    swiglpk.glp_set_col_bnds(theirs, 1, swiglpk.GLP_LO, 2, 0)
    swiglpk.glp_set_obj_coef(theirs, 0, 10)
    swiglpk.glp_set_obj_coef(theirs, 1, 1)
    swiglpk.glp_write_mps(theirs, swiglpk.GLP_MPS_FILE, None, path)


found = []
for name, text in (
    ("k = 0", problem(0)),
    ("k = 10", problem(-10)),
    ("k = 0, right-hand side of the other row -10", problem(0, -10)),
    ("written by GLPK, k = 10", None),
):
    path = str(WORK / "problem.mps")
    write_by_glpk(path) if text is None else Path(path).write_text(text)
    answers = [solve(path) for solve in (by_scip, by_highs, by_glpk, by_mip)]
    print(f"{name}: SCIP {answers[0]:g}, HiGHS {answers[1]:g}, GLPK {answers[2]:g}, python-mip {answers[3]:g}")
    found.append([round(answer, 6) for answer in answers])
sys.exit(found != [[2, 2, 2, 2], [12, 12, -8, 2], [2, 12, 2, 2], [-8, -8, 12, 2]])
PY
