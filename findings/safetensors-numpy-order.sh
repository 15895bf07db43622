#!/usr/bin/env bash
# safetensors 0.8.0 writes a NumPy array that is not in C order with its numbers in the wrong places.
#
# safetensors.numpy takes the bytes as they lie in memory and the shape as NumPy sees it: a transposed weight, as a
# conversion between frameworks makes it, is read back as other numbers of the same shape, in silence. The documentation
# asks for contiguous arrays, safetensors.torch refuses others, and version 0.7.0 wrote them right. NumPy calls an array
# in Fortran order contiguous too, and scikit-learn returns such ones. Reported to its authors (safetensors, issue 825).
#
# Seen with safetensors 0.8.0 and numpy 2.4.6 on Linux x86-64, Python 3.11 (what save and load make of 0 3, 1 4, 2 5):
#   C order: 0 3 1 4 2 5
#   transposed: 0 1 2 3 4 5
#   transposed and copied to C order: 0 3 1 4 2 5
#   transposed, with 0.7.0: 0 3 1 4 2 5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
"$work/venv/bin/pip" install --quiet --no-deps --target "$work/before" safetensors==0.7.0
cat > "$work/order.py" <<'PY'
import sys

import numpy as np
from safetensors.numpy import load, save

wide = np.arange(6, dtype=np.float32).reshape(2, 3)
arrays = {
    "C order": np.array([[0, 3], [1, 4], [2, 5]], dtype=np.float32),
    "transposed": wide.T,
    "transposed and copied to C order": np.ascontiguousarray(wide.T),
}
assert all(np.array_equal(array, arrays["C order"]) for array in arrays.values())
right = []
for name in sys.argv[1:] or arrays:
    read = load(save({"weight": arrays[name]}))["weight"]
    print(f"{name}{', with 0.7.0' if sys.argv[1:] else ''}: {' '.join(f'{number:g}' for number in read.flat)}")
    right.append(np.array_equal(read, arrays[name]))
sys.exit(right != ([True] if sys.argv[1:] else [True, False, True]))
PY
"$work/venv/bin/python" "$work/order.py"
PYTHONPATH="$work/before" "$work/venv/bin/python" "$work/order.py" transposed
