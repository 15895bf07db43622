#!/usr/bin/env bash
# statsmodels' one-sided intervals of proportions point the other way than those of scipy, R and statsmodels itself.
#
# alternative="larger" names the hypothesis p > p0, whose interval has a lower limit and none above: so it is in
# statsmodels' DescrStatsW.tconfint_mean, in scipy's binomtest and in R's prop.test (both "greater"). Of
# proportion_confint the interval by this name goes from 0 to an upper limit. A program that needs a lower bound of a probability, as certificates
# by randomized smoothing do, asks for "larger" and gets 0; if it takes the limit that is given, it holds the upper
# one for the lower one. The documentation says "lower or upper bound is set to 0 or 1 respectively", not which.
#
# Seen with statsmodels 0.15.0 and scipy 1.17.1 on Linux x86-64, Python 3.11 (90 of 100, 95 %, exact intervals):
#   proportion_confint, larger: 0.000 to 0.945
#   proportion_confint, smaller: 0.836 to 1.000
#   scipy's binomtest, greater: 0.836 to 1.000
#   statsmodels' tconfint_mean of the same data, larger: 0.850 to inf
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet statsmodels==0.15.0 scipy==1.17.1 numpy
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

data = np.repeat([1.0, 0.0], [90, 10])
found = {
    f"proportion_confint, {side}": proportion_confint(90, 100, 0.05, "beta", side)
    for side in ("larger", "smaller")
}
exact = binomtest(90, 100, alternative="greater").proportion_ci(0.95, method="exact")
found["scipy's binomtest, greater"] = exact.low, exact.high
mean = DescrStatsW(data).tconfint_mean(0.05, alternative="larger")
found["statsmodels' tconfint_mean of the same data, larger"] = mean
for name, (low, high) in found.items():
    print(f"{name}: {low:.3f} to {high:.3f}")
larger, smaller, scipys, means = found.values()
other_way = larger[0] == 0 and larger[1] < 1 and np.allclose(smaller, scipys) and scipys[1] == 1
sys.exit(not (other_way and means[0] > 0.8 and means[1] == np.inf))
PY
