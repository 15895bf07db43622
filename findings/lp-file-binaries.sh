#!/usr/bin/env bash
# HiGHS and GLPK give a variable that an LP file lists under "Binaries" the values 5, -3 and -9.
#
# The section "Binaries" follows "Bounds" and restricts its variables to 0 and 1; SCIP and CBC read it so. HiGHS and GLPK keep
# every bound that the file gave before, and fill in only the one that is missing: a variable that is free and binary goes
# from -inf to 1 in HiGHS, and has no bounds at all in GLPK. Both read the file without a warning. In an encoding of a ReLU
# network by big M such a "phase" lifts the constraints that it should switch, and the optimum is no bound.
#
# Seen with highspy 1.16.0, swiglpk 5.0.13 and PySCIPOpt 6.3.0 on Linux x86-64, Python 3.11 (x is binary, and -9 <= x <= 7.5
# is a constraint; least and greatest x):
#   no bounds: SCIP 0 to 1, HiGHS 0 to 1, GLPK 0 to 1
#   x <= 5: SCIP 0 to 1, HiGHS 0 to 5, GLPK 0 to 5
#   x >= -3: SCIP 0 to 1, HiGHS -3 to 1, GLPK -3 to 1
#   x free: SCIP 0 to 1, HiGHS -9 to 1, GLPK -9 to 7
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet highspy==1.16.0 swiglpk==5.0.13 PySCIPOpt==6.3.0
"$work/venv/bin/python" - "$work" <<'PY'
import sys
from pathlib import Path

import highspy
import pyscipopt
import swiglpk

PATH = Path(sys.argv[1]) / "problem.lp"


def by_scip():
    model = pyscipopt.Model()
    model.hideOutput()
    model.readProblem(str(PATH))
    model.optimize()
    return model.getObjVal()


def by_highs():
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    quiet = solver.readModel(str(PATH)) == highspy.HighsStatus.kOk
    solver.run()
    return solver.getInfo().objective_function_value if quiet else None


def by_glpk():
    swiglpk.glp_term_out(swiglpk.GLP_OFF)
    problem = swiglpk.glp_create_prob()
    swiglpk.glp_read_lp(problem, None, str(PATH))
    swiglpk.glp_simplex(problem, None)
    swiglpk.glp_intopt(problem, None)
    return swiglpk.glp_mip_obj_val(problem)


found = []
for bounds in ("no bounds", "x <= 5", "x >= -3", "x free"):
    ends = []
    for solve in (by_scip, by_highs, by_glpk):
        for sense in ("Minimize", "Maximize"):
            given = "" if bounds == "no bounds" else f"Bounds\n {bounds}\n"
            rows = " least: x >= -9\n most: x <= 7.5\n"
            PATH.write_text(f"{sense}\n obj: x\nSubject To\n{rows}{given}Binaries\n x\nEnd\n")
            ends.append(round(solve()))
    found.append(ends)
    scip, highs, glpk = (f"{ends[i]} to {ends[i + 1]}" for i in (0, 2, 4))
    print(f"{bounds}: SCIP {scip}, HiGHS {highs}, GLPK {glpk}", flush=True)
sys.exit(found != [[0, 1, 0, 1, 0, 1], [0, 1, 0, 5, 0, 5], [0, 1, -3, 1, -3, 1], [0, 1, -9, 1, -9, 7]])
PY
