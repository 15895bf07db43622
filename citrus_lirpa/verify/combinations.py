"""Groups with many combinations of wrong classes, proved by parts that combinations share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from .budget import Budget
from .crown.branch_and_bound import Outcome, Problems, branch_and_bound
from .crown.cores import Root, bound_roots
from .crown.linear import Chosen, images_of
from .crown.tree import BROKEN, PROVED
from .group_proof import GroupProof, Search

#: Of the limit of a group, what one of many combinations may take, and what a part of it may; and
#: the same where programs are likely to decide them.
_WHOLE_LIMIT, _PART_LIMIT = 0.2, 0.03
_WHOLE_PROGRAM, _PART_PROGRAM = 1.0, 0.2
#: So many combinations of the same images are proved together, and what these may take.
_TOGETHER, _ALIKE_LIMIT = 16, 0.4
#: Combinations of wrong classes of one group handed to branch and bound at once.
_MOST_COMBINATIONS = 2_000
#: More combinations of a small group are proved one by one, by parts that others have too.
_FEW = 8


def surviving(search: Search, proof: GroupProof, size: int) -> list[Chosen]:
    """Return what may break sets of a size; nothing where that is too much to be worth it."""
    if search.budget.over:
        return []
    found = list(islice(proof.group.survivors(size), _MOST_COMBINATIONS + 1))
    return found if len(found) <= _MOST_COMBINATIONS else []


def prove_combinations(search: Search, left: Mapping[GroupProof, Sequence[Chosen]]) -> bool:
    """Prove groups by their combinations, next the one whose least bound is highest.

    Each gets an equal share of the time left, what is left of it another one, and so does its
    next size.

    Returns:
        Whether any combination was proved.
    """
    moved = False
    roots = {proof: bound_roots(search.reduced, some) for proof, some in left.items()}
    while roots and not search.budget.over:
        proof = max(roots, key=lambda proof: roots[proof][0].value)
        its, most, before = search.budget.part(1 / len(roots)), proof.most, len(roots[proof])
        rest = _prove_group(search, proof, roots.pop(proof), its)
        moved |= len(rest) < before
        some = surviving(search, proof, proof.most) if proof.most < most and proof.hopeful else []
        if proof.hopeful and proof.most == most and 0 < len(rest) < before:
            roots[proof] = rest
        elif has_many(search, proof, some):
            roots[proof] = bound_roots(search.reduced, some)
    return moved


def has_many(search: Search, proof: GroupProof, combinations: Sequence[Chosen]) -> bool:
    """Return whether the combinations of a group are many, and its networks fit into memory."""
    if len(combinations) <= _FEW or not search.split or not search.engine.splits:
        return False
    return sum(map(search.reduced.size, proof.group.rows)) <= search.reduced.limit


def _prove_group(
    search: Search, proof: GroupProof, roots: list[Root], budget: Budget
) -> list[Root]:
    """Prove combinations, the least bound first; return those that are left.

    What is proved of a part of one holds for all that contain this part. Where only the whole of
    one is proved, those like it are tried together, which takes less time than one by one.
    """
    together, failed = True, list[set[tuple[int, int]]]()
    while roots and not (budget.over or proof.settled):
        part = _prove_some_part(search, proof, roots[0], failed, budget)
        if part is None:
            if not (budget.over or proof.settled):
                proof.stuck = len(roots[0].chosen)
            break
        proved = [part]
        alike = _alike(roots, failed) if together and part == roots[0].chosen else {}
        if alike:
            together = int(_prove(search, alike, _ALIKE_LIMIT, budget).state) == PROVED
            proved += alike if together else []
        for each in proved:
            proof.group.refute(each)
            roots = [root for root in roots if not set(each) <= set(root.chosen)]
    proof.enumerate_sets("tuple bab")
    return roots


def _prove_some_part(
    search: Search,
    proof: GroupProof,
    root: Root,
    failed: list[set[tuple[int, int]]],
    budget: Budget,
) -> Chosen | None:
    """Return a part of a combination that is proved not to break, None where none is.

    Next comes a part with one more image where a part breaks, the whole where it is given up. What
    is given up, or all margins that a perturbation makes negative, joins ``failed``; what lies
    within one of these is not tried again.
    """
    parts = [part for part in root.parts if not _within(part, failed)]
    suited = search.reduced.suit_programs(images_of(root.chosen))
    whole, some = (_WHOLE_PROGRAM, _PART_PROGRAM) if suited else (_WHOLE_LIMIT, _PART_LIMIT)
    while parts and not proof.settled:
        part = parts.pop(0)
        share = whole if part == root.chosen else some
        found = _prove(search, {part: root}, share, budget)
        if found.state == PROVED:
            return part
        if found.state == BROKEN:
            negative = _negative(search, proof, found.u[0]).union(part)
            proof.take(tuple({image for image, _ in negative}), BROKEN, found.u[0])
            failed.append(negative)
            parts = [part for part in parts if not set(part) <= failed[-1]]
        else:
            failed.append(set(part))
            parts = parts[-1:]
    return None


def _negative(search: Search, proof: GroupProof, u: Tensor) -> set[tuple[int, int]]:
    """Return the margins of a group's images that a perturbation makes negative."""
    members = torch.tensor(list(proof.group.rows), device=u.device)
    negative = search.engine.attack.negative(search.images, members, u)
    return {(int(members[i]), int(row)) for i, row in negative.nonzero()}


def _alike(roots: Sequence[Root], failed: Sequence[set[tuple[int, int]]]) -> dict[Chosen, Root]:
    """Return further combinations of the first one's images whose cores failed, as it did."""
    members = images_of(roots[0].chosen)
    same = (root for root in roots[1:] if images_of(root.chosen) == members)
    alike = (root for root in same if _within(root.parts[0], failed))
    return {root.chosen: root for root in islice(alike, _TOGETHER)}


def _within(part: Chosen, failed: Sequence[set[tuple[int, int]]]) -> bool:
    return any(set(part) <= each for each in failed)


def _prove(search: Search, some: Mapping[Chosen, Root], share: float, budget: Budget) -> Outcome:
    """Return what branch and bound finds of parts of combinations, as one problem.

    Args:
        search: What the stage works with.
        some: Parts with the same images, and the combination that each is a part of.
        share: Of the limit of a group, what it may take.
        budget: The time for the group.
    """
    (members,) = {images_of(part) for part in some}
    parts = ([members], [0] * len(some), [[row for _, row in part] for part in some])
    x = search.images.x
    problems = Problems(*(torch.tensor(part, device=x.device) for part in parts))
    logits = [root.logits_of(part) for part, root in some.items()]
    return branch_and_bound(
        *(search.reduced, problems, replace(budget, limit=share * budget.limit)),
        logits=torch.tensor(logits, dtype=x.dtype, device=x.device),
    )
