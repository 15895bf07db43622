#!/usr/bin/env bash
# immrax's bounds leave values out: of a where, of a root or logarithm, and of a product of two bounded vectors.
#
# natif(f) should give an interval with all values of f. It passes select, comparisons and gather the lower ends and then the
# upper ends, as if they were monotone, so that what a where takes in between is lost. Where the interval of an argument reaches
# below zero, sqrt and log are [-inf, -inf]; intervals are wider than ranges, so that this meets arguments that are positive
# throughout. linbp's affine bounds of a dot product of two computed vectors (attention's scores) come from its values at four
# pairs of corners, which is right for products of single numbers alone. Nothing warns; what is not known is refused elsewhere.
#
# Seen with immrax 0.3.8, jax 0.10.2 and NumPy 2.4.6 on Linux x86-64, Python 3.11 (bounds, and values at 1,001 points or at
# all corners):
#   natif of clip(x, -0.5, 0.5), x from -1 to 2: bounds [-0.5, 0.5], values [-0.5, 0.5]
#   natif of where(x < 0.5, x, 0), x from 0 to 1: bounds [0, 0], values [0, 0.499]
#   natif of sqrt(x * x - x + 1), x from 0 to 2: bounds [-inf, -inf], values [0.866, 1.73]
#   natif of log(x * x - x + 1), x from 0 to 2: bounds [-inf, -inf], values [-0.288, 1.1]
#   linbp of a dot product of two vectors: bounds [-0.1, 0.1], values [-2.2, 2.2]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet immrax==0.3.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$work/venv/bin/python" -W ignore - <<'PY'
import itertools
import sys

import immrax
import jax
import jax.numpy as jnp

FUNCTIONS = (
    ("clip(x, -0.5, 0.5)", lambda x: jnp.clip(x, -0.5, 0.5), -1.0, 2.0),
    ("where(x < 0.5, x, 0)", lambda x: jnp.where(x < 0.5, x, 0.0), 0.0, 1.0),
    ("sqrt(x * x - x + 1)", lambda x: jnp.sqrt(x * x - x + 1), 0.0, 2.0),
    ("log(x * x - x + 1)", lambda x: jnp.log(x * x - x + 1), 0.0, 2.0),
)
held = []


def compare(name, low, high, values):
    low, high, least, most = (float(jnp.squeeze(value)) for value in (low, high, values.min(), values.max()))
    print(f"{name}: bounds [{low:.3g}, {high:.3g}], values [{least:.3g}, {most:.3g}]")
    held.append(low <= least + 1e-5 and most <= high + 1e-5)


for name, function, low, high in FUNCTIONS:
    bounds = immrax.natif(function)(immrax.interval(jnp.array([low]), jnp.array([high])))
    values = jax.vmap(function)(jnp.linspace(low, high, 1001)[:, None])
    compare(f"natif of {name}, x from {low:g} to {high:g}", bounds.lower, bounds.upper, values)

first, last = jnp.eye(4)[:2], jnp.eye(4)[2:]
low, high = jnp.array([-1.0, -1.0, 1.0, -1.1]), jnp.array([1.0, 1.0, 1.1, -1.0])


def score(x):
    """The product of the first two and the last two values, as a linear layer gives them."""
    return jnp.dot(first @ x, last @ x)


bounds = immrax.inclusion.linbp_fn(score)(immrax.interval(low, high))
corners = jnp.array(list(itertools.product(*zip(low, high))))
compare("linbp of a dot product of two vectors", bounds.l, bounds.u, jax.vmap(score)(corners))
sys.exit(held != [True, False, False, False, False])
PY
