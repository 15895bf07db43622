#!/usr/bin/env bash
# jax.scipy's betainc, and with it the distribution function of beta, loses all its digits in float32 for large counts.
#
# It subtracts logarithms of the gamma function that grow with the counts; float32, jax's default, keeps seven digits of
# these. For a thousand samples four digits of the result are right, and for a million not one. Confidence limits by
# Clopper and Pearson, on which certificates by randomized smoothing rest, are roots of this function. scipy is right for
# the same float32 arguments, and so is jax with jax_enable_x64.
#
# Seen with jax 0.10.2 and scipy 1.17.1 on Linux x86-64, Python 3.11 (the chance of so many successes or more at a rate):
#   500 of 1,000 at 0.49: jax 0.2739, scipy 0.2739, jax in float64 0.2739
#   9,990 of 10,000 at 0.9985: jax 0.1191, scipy 0.1183, jax in float64 0.1183
#   99,990 of 100,000 at 0.9998: jax 0.0104, scipy 0.0108, jax in float64 0.0108
#   500,000 of 1,000,000 at 0.499: jax 0.0192, scipy 0.0228, jax in float64 0.0228
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jax==0.10.2 scipy==1.17.1 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import jax
import numpy as np
import scipy.special

errors = []
for count, successes, rate in (
    (1_000, 500, 0.49),
    (10_000, 9_990, 0.9985),
    (100_000, 99_990, 0.9998),
    (1_000_000, 500_000, 0.499),
):
    short = [np.float32(number) for number in (successes, count - successes + 1, rate)]
    long = [np.float64(number) for number in short]
    theirs, true = float(jax.scipy.special.betainc(*short)), float(scipy.special.betainc(*short))
    with jax.enable_x64(True):
        wide = float(jax.scipy.special.betainc(*long))
    print(f"{successes:,} of {count:,} at {rate}: jax {theirs:.4f}, scipy {true:.4f}, jax in float64 {wide:.4f}")
    exact = float(scipy.special.betainc(*long))
    errors.append([abs(value / exact - 1) for value in (theirs, true, wide)])
theirs, others = [error[0] for error in errors], [error[1:] for error in errors]
sys.exit(not (max(map(max, others)) < 1e-4 > theirs[0] and min(theirs[2:]) > 0.01))
PY
