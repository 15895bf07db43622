#!/usr/bin/env bash
# mpmath's intervals leave out the value: a determinant is 0 where a pivot is unsure, a norm is its upper end alone.
#
# mpmath.iv computes with intervals that contain every value, and its operators and functions keep to that. Three functions
# that it shares with mpmath.mp do not. iv.det takes "the elimination meets a pivot that may be zero" for "the matrix is
# singular" and answers 0, also for matrices whose determinant has one sign throughout. iv.norm(x, inf) gives the largest
# upper end as an interval without width. iv.fdot multiplies floats before it makes intervals of them, so that the rounding
# of the products is in no bound. Nothing warns; a proof that rests on such an interval is wrong.
#
# Seen with mpmath 1.4.1 on Linux x86-64, Python 3.11 (matrices with intervals of whole numbers):
#   determinant from -2 to 2: iv.det [0, 0]
#   determinant from 2 to 18: iv.det [0, 0]
#   determinant from 11 to 18: iv.det [11, 18]
#   largest of |[1, 2]| and |[-5, 1]|, from 1 to 5: iv.norm [5, 5]
#   0.1 * 0.1 as floats: iv.mpf(a) * iv.mpf(b) contains it
#   0.1 * 0.1 as floats: iv.fdot([(a, b)]) does not
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mpmath==1.4.1
"$work/venv/bin/python" - <<'PY'
import itertools
import sys
from fractions import Fraction

from mpmath import iv, mp

MATRICES = (
    [[(1, 2), (2, 2)], [(3, 3), (4, 4)]],
    [[(2, 2), (-1, -1), (2, 2)], [(3, 3), (-1, 0), (-3, -2)], [(2, 2), (-1, 0), (4, 4)]],
    [[(1, 2), (2, 2)], [(-3, -3), (5, 6)]],
)


def determinant(rows):
    if not rows:
        return 1
    minors = ([row[:j] + row[j + 1 :] for row in rows[1:]] for j in range(len(rows)))
    return sum((-1) ** j * rows[0][j] * determinant(minor) for j, minor in enumerate(minors))


def exact_range(matrix):
    """The least and the greatest determinant: it is linear in each entry, so that they lie at ends of the intervals."""
    n = len(matrix)
    choices = itertools.product(*(entry for row in matrix for entry in row))
    values = [determinant([list(choice[i * n : i * n + n]) for i in range(n)]) for choice in choices]
    return min(values), max(values)


def ends(interval):
    """The ends of an interval as exact fractions."""
    parts = (mp.mpf(end).man_exp for end in (iv.mpf(interval).a, iv.mpf(interval).b))
    return [Fraction(int(mantissa)) * Fraction(2) ** int(exponent) for mantissa, exponent in parts]


found = []
for matrix in MATRICES:
    low, high = exact_range(matrix)
    theirs = ends(iv.det(iv.matrix([[iv.mpf(list(entry)) for entry in row] for row in matrix])))
    print(f"determinant from {low} to {high}: iv.det [{float(theirs[0]):.6g}, {float(theirs[1]):.6g}]")
    found.append(theirs[0] <= low and high <= theirs[1])

norm = ends(iv.norm([iv.mpf([1, 2]), iv.mpf([-5, 1])], iv.inf))
print(f"largest of |[1, 2]| and |[-5, 1]|, from 1 to 5: iv.norm [{norm[0]}, {norm[1]}]")
found.append(norm[0] <= 1 and 5 <= norm[1])

a = b = 0.1
exact = Fraction(a) * Fraction(b)
for name, interval in (("iv.mpf(a) * iv.mpf(b)", iv.mpf(a) * iv.mpf(b)), ("iv.fdot([(a, b)])", iv.fdot([(a, b)]))):
    low, high = ends(interval)
    found.append(low <= exact <= high)
    print(f"{a} * {b} as floats: {name} {'contains it' if found[-1] else 'does not'}")
sys.exit(found != [False, False, True, False, True, False])
PY
