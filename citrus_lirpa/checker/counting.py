"""What follows from bounds that are positive: leaves that cover, images that survive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from .network import require

#: How many ways to break the images of a group are tried.
_MOST_TRIES = 1_000_000


def covers(leaves: Sequence[Mapping[Any, int]]) -> bool:
    """Return whether leaves (signs by neuron) make a tree, so that one of them always holds."""
    if not all(leaves):
        return True  # a leaf without splits always holds
    common = set(leaves[0]).intersection(*leaves[1:]) if leaves else set()
    if not common:
        return False  # no leaves, or none that divides all of them
    neuron = min(common)
    sides: dict[int, list[Mapping[Any, int]]] = {1: [], -1: []}
    for leaf in leaves:
        sides[leaf[neuron]].append({key: leaf[key] for key in leaf if key != neuron})
    return all(map(covers, sides.values()))


#: Images and classes that one perturbation does not break together.
Refuted = frozenset[tuple[int, int]]


def open_classes(
    members: Iterable[int], labels: Sequence[int], classes: int, refuted: Collection[Refuted]
) -> dict[int, list[int]]:
    """Return the wrong classes of each image that are not refuted alone."""
    return {
        i: [c for c in range(classes) if c != labels[i] and frozenset([(i, c)]) not in refuted]
        for i in members
    }


def most_broken(
    members: Sequence[int], labels: Sequence[int], classes: int, refuted: Collection[Refuted]
) -> int:
    """Return how many images of a group one perturbation may break, by what is refuted.

    An image that is among the members several times is broken as often, or not at all.
    """
    times = Counter(members)
    options = open_classes(times, labels, classes, refuted)
    able = [i for i in times if options[i]]
    several = [pairs for pairs in refuted if len(pairs) > 1] if able else []
    tied = [i for i in able if all(any((i, c) in p for p in several) for c in options[i])]
    mine = [pairs for pairs in several if {i for i, _ in pairs} <= set(tied)]
    left = [sum(times[i] for i in tied[at:]) for at in range(len(tied) + 1)]
    best, tries = 0, 0

    def extend(at: int, chosen: frozenset[tuple[int, int]], broken: int) -> None:
        nonlocal best, tries
        tries += 1
        require(tries <= _MOST_TRIES, "a group has more combinations than are tried")
        best = max(best, broken)
        if broken + left[at] <= best:
            return
        for c in options[tied[at]]:
            more = chosen | {(tied[at], c)}
            if not any(pairs <= more for pairs in mine):
                extend(at + 1, more, broken + times[tied[at]])
        extend(at + 1, chosen, broken)

    extend(0, frozenset(), 0)
    return best + sum(times[i] for i in able) - left[0]
