#!/usr/bin/env bash
# VNN-COMP, regular track: install_tool.sh v1
set -euo pipefail
[ "$1" = v1 ] || { echo "expected version v1, not $1" >&2; exit 1; }
cd "$(dirname "$0")/../.."
python3 -m pip install '.[vnnlib]'
python3 -m pip install --no-deps auto-LiRPA==0.3
