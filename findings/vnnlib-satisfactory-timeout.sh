#!/usr/bin/env bash
# vnnlib-satisfactory loses the report of a whole run when one solver call times out after it printed.
#
# The suite keeps what a solver that ran out of time had printed as bytes, and everything else as text.
# The report is written once, at the end, as JSON, which takes no bytes: the run ends in a TypeError, status
# 1, and report.json is missing, also for the tests that had passed. A solver that prints progress and is
# slow in one test of 178 meets this; one that prints nothing before the limit does not.
#
# Seen with vnnlib-satisfactory 1.0.1 on Linux x86-64, Python 3.11 (a stand-in for a solver, two tests):
#   silent until the limit: status 0, report: ./.vnnlib-satisfactory/report.json
#   prints, then runs into the limit: status 1, report: none Object of type bytes is not JSON serializable
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet vnnlib-satisfactory==1.0.1
cd "$work"
cat > solver <<'SH'
#!/bin/sh
# Claims all that is asked for; the first test of `add` is slow.
case "$1 $2" in
  verify*add01*) [ -z "${CHATTY:-}" ] || echo "searching"; sleep 30 ;;
  verify*) echo unknown ;;
  *operators*) printf 'Add\nConstant\n' ;;
  *arithmetic*) printf 'BND\nOUTC\nLIN\n' ;;
esac
SH
chmod +x solver
seen=""
for chatty in "" 1; do
  rm -rf .vnnlib-satisfactory
  status=0
  CHATTY=$chatty venv/bin/vnnlib-satisfactory run --solver ./solver --test add --timeout 3 \
    > log.txt 2>&1 || status=$?
  report=$(find . -path ./venv -prune -o -name report.json -print)
  error=$(grep -o "Object of type bytes is not JSON serializable" log.txt | head -n 1 || true)
  label=$([ -z "$chatty" ] && echo "silent until the limit" || echo "prints, then runs into the limit")
  echo "$label: status $status, report: ${report:-none} $error"
  seen+="$status ${report:+report} $error;"
done
[ "$seen" = "0 report ;1  Object of type bytes is not JSON serializable;" ]
