#!/usr/bin/env bash
# scipy's linprog and milp leave out coefficients of 1e-9 and less, and linprog's slack and con do so too.
#
# HiGHS ignores such matrix entries, and scipy passes no word of that on: an x that breaks its constraint is
# "Optimization terminated successfully". The documentation says that the result's slack is b_ub - A_ub @ x and its
# con b_eq - A_eq @ x; both come from HiGHS, without the entry, so that a check of them passes as well. A linear
# bound with small coefficients and large variables is wrong in silence. Coefficients of 1.1e-9 count.
#
# Seen with scipy 1.17.1 and numpy 2.4.6 on Linux x86-64, Python 3.11 (the largest x <= 4e9 with c * x <= 1):
#   c = 1.1e-09: x = 9.09e+08, c * x = 1, slack 0
#   c = 1e-09: x = 4e+09, c * x = 4, slack 1
#   c = 1e-09 in milp: x = 4e+09, c * x = 4, success True
#   c = 1e-09 in c * x + y == 1: c * x + y = 5, con 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

MOST = 4e9


def largest(c):
    """Maximise x subject to c * x <= 1 and 0 <= x <= MOST."""
    return linprog([-1.0], A_ub=[[c]], b_ub=[1.0], bounds=[(0, MOST)])


found = []
for c in (1.1e-9, 1e-9):
    result = largest(c)
    used, slack = c * result.x[0], result.slack[0]
    print(f"c = {c:g}: x = {result.x[0]:.3g}, c * x = {used:.3g}, slack {slack:.3g}")
    found.append((result.success, used <= 1 + 1e-6, abs(slack - (1 - used)) < 1e-6))

result = milp([-1.0], constraints=LinearConstraint([[c]], -np.inf, 1.0), bounds=Bounds(0, MOST))
used = c * result.x[0]
print(f"c = {c:g} in milp: x = {result.x[0]:.3g}, c * x = {used:.3g}, success {result.success}")
found.append((result.success, used <= 1 + 1e-6))

result = linprog([-1.0, 0.0], A_eq=[[c, 1.0]], b_eq=[1.0], bounds=[(0, MOST), (0, None)])
left = c * result.x[0] + result.x[1]
print(f"c = {c:g} in c * x + y == 1: c * x + y = {left:.3g}, con {result.con[0]:.3g}")
found.append((result.success, abs(left - 1) < 1e-6, abs(result.con[0]) < 1e-6))
seen = [(True, True, True), (True, False, False), (True, False), (True, False, True)]
sys.exit(found != seen)
PY
