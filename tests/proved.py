"""Proofs of images and groups, their files, and what is stated in them."""

import json

import numpy as np

from citrus_lirpa import GroupAttack, certify, certify_uap, checker
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.verify.crown.proofs import Proofs
from citrus_lirpa.verify.proof_files import ProofFolder


def prove(folder, net, x, y, eps, clip=None, size=4, method="bab", arithmetic="real"):
    """Certify images and groups, and write their proofs."""
    kept = Proofs(x, y)
    made = ProofFolder(folder, net, Ball(eps, clip), arithmetic=arithmetic)
    given = dict(clip=clip, group_size=size, time_limit=5, proofs=kept, arithmetic=arithmetic)
    found = certify(net, x, y, eps, method=method, **given)
    attack = GroupAttack(steps=5, restarts=1, clip=clip)
    uap = certify_uap(net, x, y, eps, certificates=found, attack=attack, **given)
    made.store(0, kept, 100, size, found, uap)
    return found, uap, made.figures(uap)


def check(folder, arrays, model=None, exact=False):
    """Check arrays as the only file of a folder."""
    folder.mkdir(exist_ok=True)
    np.savez(folder / "00000.npz", **arrays)
    return checker.check_folder(folder, checker.read_network(model, exact=exact))


def statement(arrays, **changes):
    """Change what is stated."""
    values = json.loads(str(arrays["statement"]))
    return {**arrays, "statement": np.array(json.dumps({**values, **changes}))}


def stated(arrays, name):
    return json.loads(str(arrays["statement"]))[name]
