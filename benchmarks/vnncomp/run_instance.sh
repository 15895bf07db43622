#!/usr/bin/env bash
# VNN-COMP, regular track: run_instance.sh v1 CATEGORY NET.onnx QUERY.vnnlib[.gz] SECONDS RESULTS
# Writes sat, unsat, unknown, timeout or error; behind sat the counterexample as ((X_0 0.5) ... ).
set -euo pipefail
[ "$1" = v1 ] || { echo "expected version v1, not $1" >&2; exit 1; }
net=$3 query=$4 seconds=$5 results=$6
name=$( (case $query in *.gz) gzip -dc "$query" ;; *) cat "$query" ;; esac) |
  sed -n 's/^ *(declare-network  *\([A-Za-z_0-9]*\).*/\1/p' | head -n 1)
if ! answer=$(citrus-lirpa verify "$query" --network "${name:-N}=$net" --timeout "$seconds"); then
  echo error > "$results"
  exit 0
fi
awk '
  NR == 1 { print ($1 == "timed-out" ? "timeout" : $1); next }
  NF == 3 { kind = $1; n = 0; next }
  { printf "%s(%s_%d %s)", (NR == 3 ? "(" : "\n"), kind, n++, $1 }
  END { if (NR > 1) print ")" }
' <<< "$answer" > "$results"
