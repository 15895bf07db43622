"""What a page shows of universal perturbations, and of the groups that they hurt most."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from ...runs.perturbations import PerturbationRecord
from ..tables import percent
from .gather import Material
from .images import Album

#: Classes up to which the whole confusion matrix is shown; above, the most frequent mistakes.
_MATRIX = 20
#: Classes shown, the most fooled first, where there are more; most frequent mistakes shown.
_CLASSES, _CHANGES = 20, 8
_RGB = ("red", "green", "blue")


def universal(material: Material, album: Album) -> dict[str, Any] | None:
    """Show the strongest single perturbation known; None where none is kept."""
    of_training = material.record is not None and material.record.held_out
    held_out = ", on held-out images" if of_training else ""
    known = [
        (effect, source)
        for effect, source in (
            (material.found, f"the evaluation, for one of its groups{held_out}"),
            (material.crafted, "the attack, for the whole data set"),
        )
        if effect is not None and len(effect.u) == 1
    ]
    own = material.crafted
    if own is not None and len(own.u) == 1:
        own = None
    if known:
        effect, source = max(known, key=lambda pair: pair[0].fooling_rate)
    elif own is not None:
        effect, source = own, ""
    else:
        return None
    rows = [(source, *_rates(effect)) for effect, source in known]
    if own is not None:
        rows.append(("the attack, one for each class", *_rates(own)))
    names = _names(material, effect)
    return {
        "source": source,
        "tried": rows,
        "rate": percent(effect.fooling_rate),
        "broken": f"{int(effect.broken.sum()):,}",
        "correct": f"{int(effect.correct.sum()):,}",
        "picture": album.perturbation(effect.u[0], effect.shade) if known else None,
        "channels": _channels(effect, album) if known else [],
        "examples": _examples(effect, names, album),
        "classes": _classes(effect, own, names),
        "confusion": _confusion(effect, names),
        "mistakes": _mistakes(effect, names),
    }


def worst_groups(material: Material, album: Album, limit: int) -> list[dict[str, Any]]:
    """Show the groups, at most ``limit``, of which the fewest images survive."""
    effect, record = material.found, material.record
    if effect is None or record is None or record.groups is None:
        return []
    names, size, groups = _names(material, effect), record.group_size, record.groups
    found = []
    for row, group in enumerate(effect.groups.tolist()[:limit]):
        u, begin = effect.group_u[row], group * size
        last = min(begin + size, record.images) - 1
        found.append(
            {
                "number": group,
                "images": f"{begin} to {last}",
                "size": last - begin + 1,
                "at_least": groups.safe_at_least[group],
                "at_most": groups.safe_at_most[group],
                "stage": groups.stage[group],
                "broken": bool(u.any()),
                "picture": album.perturbation(u, effect.shade),
                "members": [
                    _pair(effect, number, u, int(effect.member_classes[row, place]), names, album)
                    for place, number in enumerate(effect.members[row].tolist())
                    if number >= 0
                ],
            }
        )
    return found


def _channels(effect: PerturbationRecord, album: Album) -> list[tuple[str, str | None]]:
    """Show each channel of a colour perturbation by itself, in grey."""
    u = effect.u[0]
    if len(u) != len(_RGB):
        return []
    return [
        (name, album.perturbation(channel[None], effect.shade))
        for name, channel in zip(_RGB, u, strict=True)
    ]


def _rates(effect: PerturbationRecord) -> tuple[str, str, str]:
    broken, correct = int(effect.broken.sum()), int(effect.correct.sum())
    return (f"{len(effect.labels):,}", f"{broken:,} of {correct:,}", percent(effect.fooling_rate))


def _names(material: Material, effect: PerturbationRecord) -> list[str]:
    """Names of all classes that occur; numbers where the data set is none of ours."""
    highest = max(int(part.max()) for part in (effect.labels, effect.clean, effect.perturbed))
    known = list(material.class_names)
    return known + [str(k) for k in range(len(known), highest + 1)]


def _examples(effect: PerturbationRecord, names: list[str], album: Album) -> list[dict[str, Any]]:
    return [
        _pair(effect, i, _own(effect, i), int(effect.perturbed[i]), names, album)
        for i in effect.examples()
    ]


def _own(effect: PerturbationRecord, number: int) -> np.ndarray:
    return effect.u[0] if len(effect.u) == 1 else effect.u[int(effect.labels[number])]


def _pair(
    effect: PerturbationRecord,
    number: int,
    u: np.ndarray,
    moved: int,
    names: list[str],
    album: Album,
) -> dict[str, Any]:
    """An image without and with u, and the classes predicted."""
    label, clean = int(effect.labels[number]), int(effect.clean[number])
    image = effect.image(number)
    return {
        "number": number,
        "label": names[label],
        "clean": names[clean],
        "moved": names[moved],
        "state": "wrong" if clean != label else "broken" if moved != label else "safe",
        "before": album.pixels(image),
        "after": album.moved(image, u),
    }


def _classes(
    effect: PerturbationRecord, own: PerturbationRecord | None, names: list[str]
) -> dict[str, Any]:
    """Accuracy without and with u and share of broken images of each class, worst first if many."""
    rows: list[dict[str, Any]] = []
    for k, name in enumerate(names):
        mine = effect.labels == k
        if not mine.any():
            continue
        rows.append(
            {
                "name": name,
                "images": f"{int(mine.sum()):,}",
                "clean": percent(effect.correct[mine].mean()),
                "moved": percent((effect.perturbed == effect.labels)[mine].mean()),
                "fooled": _fooled(effect, k),
                "own": None if own is None else percent(_fooled(own, k)),
            }
        )
    most = max((row["fooled"] for row in rows), default=0.0) or 1.0
    if len(rows) > _CLASSES:
        rows.sort(key=lambda row: -row["fooled"])
    for row in rows:
        row["bar"] = round(100 * row["fooled"] / most, 1)
        row["fooled"] = percent(row["fooled"])
    return {"rows": rows[:_CLASSES], "more": len(rows[_CLASSES:]), "own": own is not None}


def _fooled(effect: PerturbationRecord, label: int) -> float:
    mine = effect.labels == label
    return int(effect.broken[mine].sum()) / max(1, int(effect.correct[mine].sum()))


def _confusion(effect: PerturbationRecord, names: list[str]) -> dict[str, Any] | None:
    """Rows: true classes; columns: classes predicted with u; None where there are too many."""
    size = len(names)
    if size > _MATRIX:
        return None
    with_u, without = (
        _matrix(effect.labels, part, size) for part in (effect.perturbed, effect.clean)
    )
    beside = with_u[~np.eye(size, dtype=bool)]
    most = max(1, int(beside.max()))
    rows = [
        [
            {
                "count": int(with_u[i, j]),
                "more": int(with_u[i, j] - without[i, j]),
                "right": i == j,
                # of its class where right; of the most frequent mistake where wrong
                "shade": round(100 * with_u[i, j] / max(1, with_u[i].sum() if i == j else most), 1),
            }
            for j in range(size)
        ]
        for i in range(size)
    ]
    return {"names": names, "rows": list(zip(names, rows, strict=True))}


def _matrix(labels: np.ndarray, predicted: np.ndarray, size: int) -> np.ndarray:
    pairs = labels.astype(np.int64) * size + predicted
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


def _mistakes(effect: PerturbationRecord, names: list[str]) -> list[tuple[str, str, int]]:
    """The most frequent (true class, class predicted with u) of the images that u breaks."""
    broken = np.flatnonzero(effect.broken)
    pairs = Counter((int(effect.labels[i]), int(effect.perturbed[i])) for i in broken)
    return [(names[a], names[b], times) for (a, b), times in pairs.most_common(_CHANGES)]
