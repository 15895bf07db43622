#!/usr/bin/env bash
# The reference parser of VNN-LIB 2.0 refuses isomorphic networks of different element types.
#
# The standard, on isomorphic-to: the declarations of inputs and outputs must be identical "modulo the
# variable names and the element type"; quantisation is one of its two examples. The parser reports a
# type mismatch for a float16 network isomorphic to a float32 one. The conformance suite
# vnnlib-satisfactory 1.0.1 has such a query among those that a solver must decide
# (network_isomorphic01), so that a solver built on the parser cannot pass it.
#
# Seen with vnnlib 1.0.2 on Linux x86-64, Python 3.11:
#   float32 and float32: parsed
#   float32 and float16: TypeMismatch
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet vnnlib==1.0.2
"$work/venv/bin/python" - <<'PY'
import json
import sys

import vnnlib

QUERY = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1]) (declare-output Y float32 [1]))
(declare-network g (isomorphic-to f) (declare-input U {0} [1]) (declare-output V {0} [1]))
(assert (<= Y[0] 0.5))
(assert (<= V[0] 0.5))
"""
found = []
for kind in ("float32", "float16"):
    try:
        vnnlib.parse_query_string(QUERY.format(kind))
        found.append("parsed")
    except vnnlib.VNNLibException as error:
        found.append(json.loads(str(error))["errors"][0]["errorCode"])
    print(f"float32 and {kind}: {found[-1]}")
sys.exit(found != ["parsed", "TypeMismatch"])
PY
