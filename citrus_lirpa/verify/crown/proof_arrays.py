"""The arrays of a file of proofs, as they grow, and which rows of them the claims need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...checker import SLOPES

Array = NDArray[Any]
#: The arrays of a file, and the types of their numbers.
_ARRAYS = {
    "context_image": "int32", "claim_end": "int64", "claim_neuron": "int32",
    "claim_lower": "float32", "claim_upper": "float32",
    "entry_leaf": "int32", "entry_context": "int32", "entry_class": "int32", "entry_kind": "int8",
    "entry_weight": "float64", "slope_end": "int64", "slope": "float32",
    "split_entry": "int32", "split_neuron": "int32", "split_sign": "int8",
    "split_multiplier": "float32", "line_context": "float64", "line_entry": "float64",
}  # fmt: skip


class ProofArrays:
    """Arrays that grow by what proofs add; here ``*_end`` has the length of each part."""

    def __init__(self) -> None:
        self._parts: defaultdict[str, list[Array]] = defaultdict(list)

    @property
    def entries(self) -> int:
        """How many entries are kept."""
        return sum(map(len, self._parts["entry_leaf"]))

    def keep(self, **arrays: Array) -> None:
        """Add rows to arrays."""
        for name, values in arrays.items():
            self._parts[name].append(values)

    def needed(self, whole: Sequence[int]) -> dict[str, Any]:
        """Return the arrays of a file, without proofs that no claim needs.

        Images of which some class is not refuted need theirs only in tuples of several images.

        Args:
            whole: Numbers of the images whose wrong classes are all refuted.
        """
        arrays = {name: self._joined(name, kind) for name, kind in _ARRAYS.items()}
        leaf, context = arrays["entry_leaf"], arrays["entry_context"]
        image = arrays["context_image"][context]
        several = np.bincount(leaf)[leaf] > 1
        entry = np.isin(image, [*whole, *image[several]])
        used = np.zeros(len(arrays["context_image"]), bool)
        used[context[entry]] = True
        rows = {  # by the name of an array, or by its first word
            "context": used, "line_context": used, "claim_end": used,
            "claim": np.repeat(used, arrays["claim_end"]),
            "entry": entry, "line_entry": entry[arrays["entry_kind"] == SLOPES], "slope_end": entry,
            "slope": np.repeat(entry, arrays["slope_end"]), "split": entry[arrays["split_entry"]],
        }  # fmt: skip
        kept = {}
        for name, values in arrays.items():
            kept[name] = values[rows[name] if name in rows else rows[name.partition("_")[0]]]
            if name.endswith("_end"):
                kept[name] = kept[name].cumsum()
        kept["entry_context"] = (np.cumsum(used) - 1).astype("int32")[kept["entry_context"]]
        kept["split_entry"] = (np.cumsum(entry) - 1).astype("int32")[kept["split_entry"]]
        return kept

    def _joined(self, name: str, kind: str) -> Array:
        return np.concatenate(self._parts[name] or [np.zeros(0)]).astype(kind)
