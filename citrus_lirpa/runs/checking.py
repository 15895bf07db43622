"""Checking the proofs of an evaluation, by a checker that shares nothing with what made them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import checker
from .._version import __version__
from ..errors import CheckpointError, InputError
from ..verify import EvaluationRecord
from ..verify.proof_files import MODEL, identity_of_proofs
from ..verify.record import ProofFigures
from .folder import ResultFiles, RunFolder

_REMEDY = "evaluate again with --proofs"


def check_run(
    folder: Path, method: str | None = None, *, exact: bool = False
) -> tuple[dict[str, Any], checker.Summary]:
    """Check the proofs of an evaluation, and note in its record how many were checked.

    Args:
        folder: What ``eval --proofs`` wrote to.
        method: Of which evaluation; of the strongest one by default.
        exact: Whether to compute in fractions, for small networks.

    Returns:
        The record, and what was checked and refused.

    Raises:
        InputError: There is no such evaluation, or it has no proofs.
        CheckpointError: A file is damaged, or the proofs are of another evaluation.
    """
    files = _evaluation(folder, method)
    record = EvaluationRecord.load(files.record, _REMEDY)
    if record.proofs is None:
        raise InputError(f"{files.record} is of an evaluation without proofs; {_REMEDY}")
    if identity_of_proofs(files.proofs) != record.identity:
        raise CheckpointError(
            f"{files.proofs} is of another evaluation than {files.record.name}; {_REMEDY}"
        )
    try:
        network = checker.read_network(files.proofs / MODEL, exact=exact)
    except checker.Refused as error:
        raise CheckpointError(f"{error}; {_REMEDY}") from error
    summary = checker.check_folder(files.proofs, network)
    summary.refused += _contradictions(record, record.proofs, summary)
    name = f"citrus_lirpa.checker {__version__}, {'fractions' if exact else 'float64'}"
    checked = replace(
        record.proofs,
        checked_images=summary.images,
        checked_groups=summary.groups,
        refused=len(summary.refused),
        checker=name,
    )
    values = replace(record, proofs=checked).to_json()
    files.write_record(values)
    return values, summary


def _evaluation(folder: Path, method: str | None) -> ResultFiles:
    found = RunFolder(folder).evaluated()
    if method is None and found:
        method = found[-1]
    if method not in found:
        named = "evaluation" if method is None else f"evaluation by {method}"
        raise InputError(
            f"{folder} holds no {named}; expected a folder that citrus-lirpa eval --proofs wrote to"
        )
    return RunFolder(folder).evaluation(method)


def _contradictions(
    record: EvaluationRecord, proofs: ProofFigures, summary: checker.Summary
) -> list[str]:
    """Return how the proofs are of something else than the record says, in words."""
    clip = None if record.clip is None else tuple(map(float, record.clip))
    found = []
    own = record.arithmetic or "real"
    wanted = record.eps, record.eps_map, clip, own
    for eps, hashed, cut, arithmetic in sorted(summary.statements - {wanted}, key=str):
        maps = "" if hashed == record.eps_map else f", map {hashed or 'none'}"
        found.append(
            f"proofs are of ε = {eps}{maps}, clip {cut} and {arithmetic} arithmetic, the record of "
            f"{record.eps}, {clip} and {own}"
        )
    for what, mine, stated in (
        ("images", summary.images, proofs.images),
        ("groups", summary.groups, proofs.groups),
    ):
        if mine < stated:
            found.append(f"the record counts {stated} {what} with proofs; {mine} hold")
    return found
