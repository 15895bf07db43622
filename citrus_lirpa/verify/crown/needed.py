"""Which of the proofs of a batch its claims need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...checker import SLOPES

Array = NDArray[Any]


def needed(arrays: dict[str, Array], whole: Sequence[int]) -> dict[str, Any]:
    """Return the arrays of a file, without proofs that no claim needs.

    Images of which some class is not refuted need theirs only in tuples of several images.

    Args:
        arrays: What was kept; ``*_end`` has the length of each part, and ends in the result.
        whole: Numbers of the images whose wrong classes are all refuted.
    """
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
