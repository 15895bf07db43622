#!/usr/bin/env bash
# VNN-COMP, regular track: prepare_instance.sh v1 CATEGORY NET.onnx QUERY.vnnlib[.gz]
# Nothing is prepared; a status other than 0 skips the instance.
set -euo pipefail
[ "$1" = v1 ] || { echo "expected version v1, not $1" >&2; exit 1; }
[ -f "$3" ] && [ -f "$4" ]
