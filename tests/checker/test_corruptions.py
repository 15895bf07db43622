"""Files of proofs that are corrupted, and which claims follow from what is left of them."""

import itertools
import math

import numpy as np
import pytest
import torch
from networks import deep_net, images
from proved import check, stated, statement

from citrus_lirpa import certify, certify_uap, checker
from citrus_lirpa.bounds.box import Ball
from citrus_lirpa.verify.crown.proofs import Proofs
from citrus_lirpa.verify.proof_files import ProofFolder

pytest.importorskip("onnx")


def changed(arrays, name, at, value):
    values = arrays[name].copy()
    values[at] = value
    return {**arrays, name: values}


def of_certified(arrays):
    """Entries that alone refute a class of a certified image."""
    count = np.bincount(arrays["entry_leaf"])
    image = arrays["context_image"][arrays["entry_context"]]
    leaf_tuples = list(zip(image, arrays["entry_class"], strict=True))
    single = count[arrays["entry_leaf"]] == 1
    mine = np.isin(image, stated(arrays, "certified")) & single
    return [e for e in np.flatnonzero(mine) if leaf_tuples.count(leaf_tuples[e]) == 1]


def without(arrays, entry):
    """Leave out the leaf of an entry."""
    keep = arrays["entry_leaf"] != arrays["entry_leaf"][entry]
    number = np.cumsum(keep) - 1
    ends = np.r_[0, arrays["slope_end"]]
    parts = [arrays["slope"][ends[e] : ends[e + 1]] for e in np.flatnonzero(keep)]
    split = keep[arrays["split_entry"]]
    made = {k: v[keep] if k.startswith("entry") else v for k, v in arrays.items()}
    made |= {k: v[split] for k, v in arrays.items() if k.startswith("split")}
    made["split_entry"] = number[made["split_entry"]]
    made["slope"] = np.concatenate(parts)
    made["slope_end"] = np.cumsum([len(part) for part in parts])
    return made


def refuted_in(arrays):
    """The sets of pairs (image, class) that a file refutes, and the first entry of each leaf."""
    image = arrays["context_image"][arrays["entry_context"]].tolist()
    leaves, found = {}, {}
    for entry, leaf in enumerate(arrays["entry_leaf"].tolist()):
        leaves.setdefault(leaf, []).append(entry)
    for entries in leaves.values():
        pairs = frozenset((image[e], int(arrays["entry_class"][e])) for e in entries)
        found.setdefault(pairs, []).append(entries[0])
    return found


def without_all(arrays, entries):
    """Leave out the leaves of entries."""
    for entry in sorted(entries, reverse=True):
        arrays = without(arrays, entry)
    return arrays


def safe_by_trying(members, labels, refuted):
    """How many images of a group survive the worst choice of three classes that is not refuted."""
    options = [[None, *((i, c) for c in range(3) if c != labels[i])] for i in members]
    broken = 0
    for choice in itertools.product(*options):
        taken = frozenset(pair for pair in choice if pair)
        if len(taken) > broken and not any(pairs <= taken for pairs in refuted):
            broken = len(taken)
    return len(options) - broken


def other_class(arrays, pick):
    e = pick(of_certified(arrays))
    label = stated(arrays, "labels")[arrays["context_image"][arrays["entry_context"][e]]]
    wrong = ({0, 1, 2} - {label, int(arrays["entry_class"][e])}).pop()
    return changed(arrays, "entry_class", e, wrong)


def other_image(arrays, pick):
    e = pick(of_certified(arrays))
    image = arrays["context_image"]
    others = np.flatnonzero(image != image[arrays["entry_context"][e]])
    return changed(arrays, "entry_context", e, pick(others))


def closer_claim(arrays, pick):
    """Of an input of the first ReLU, whose bounds are exact, and of an image that is certified."""
    used = set(arrays["entry_context"][of_certified(arrays)].tolist())
    ends = np.r_[0, arrays["claim_end"]]
    places = [
        k
        for c in sorted(used)
        for k in range(ends[c], ends[c + 1])
        if arrays["claim_neuron"][k] < 14
    ]
    k = pick(places)
    lower, upper = arrays["claim_lower"][k], arrays["claim_upper"][k]
    return changed(arrays, "claim_lower", k, lower + 0.3 * (upper - lower))


def a_group(arrays, pick):
    groups = stated(arrays, "groups")
    k = pick(range(len(groups)))
    groups[k][2] += 1
    return statement(arrays, groups=groups)


def a_pixel(arrays, pick):
    at = np.unravel_index(pick(range(arrays["pixels"].size)), arrays["pixels"].shape)
    return changed(arrays, "pixels", at, arrays["pixels"][at] + np.float32(0.01))


def a_label(arrays, pick):
    labels = stated(arrays, "labels")
    k = pick(stated(arrays, "certified"))
    labels[k] = (labels[k] + 1) % 3
    return statement(arrays, labels=labels)


def one_more(arrays, pick):
    certified = stated(arrays, "certified")
    return statement(arrays, certified=[*certified, pick(sorted({*range(20)} - {*certified}))])


def anywhere(name, value):
    def change(arrays, pick):
        return changed(arrays, name, pick(range(len(arrays[name]))), value)

    return change


def by_intervals(arrays, pick):
    """A leaf with splits, which intervals do not know."""
    return changed(arrays, "entry_kind", pick(arrays["split_entry"].tolist()), checker.INTERVAL)


def certified_twice(arrays, pick):
    certified = stated(arrays, "certified")
    return statement(arrays, certified=[*certified, pick(certified)])


def a_group_twice(arrays, pick):
    groups = stated(arrays, "groups")
    return statement(arrays, groups=[*groups, pick(groups)])


CORRUPTIONS = {
    "a negative multiplier of a split": anywhere("split_multiplier", -0.1),
    "a sign of a split turned": lambda a, pick: (
        lambda k: changed(a, "split_sign", k, -a["split_sign"][k])
    )(pick(range(len(a["split_sign"])))),
    "a leaf left out": lambda a, pick: without(a, pick(a["split_entry"].tolist())),
    "the only leaf of a class left out": lambda a, pick: without(a, pick(of_certified(a))),
    "a slope above 1": anywhere("slope", 1.25),
    "a slope below 0": anywhere("slope", -0.25),
    "a slope that is NaN": anywhere("slope", math.nan),
    "a negative weight": anywhere("entry_weight", -1.0),
    "a class swapped": other_class,
    "bounds of another image": other_image,
    "a bound closer than it is": closer_claim,
    "a kind that proves less": by_intervals,
    "a larger eps": lambda a, pick: statement(a, eps=stated(a, "eps") * pick((1.5, 2.0, 3.0))),
    "a pixel": a_pixel,
    "a label": a_label,
    "a certified image more": one_more,
    "a safe image more": a_group,
    "another network's hash": lambda a, pick: statement(a, network=str(pick(range(9))) * 64),
    "an image that is counted twice": certified_twice,
    "a group that is counted twice": a_group_twice,
    "an entry of no image": anywhere("context_image", 99),
    "a neuron that is not there": anywhere("split_neuron", 10_000),
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_corrupted_proofs_are_refused(tmp_path, proofs, kind, seed):
    folder, arrays = proofs
    draw = np.random.default_rng(seed)

    def pick(values):
        return values[int(draw.integers(len(values)))]

    bad = CORRUPTIONS[kind](arrays, pick)
    summary = check(tmp_path / "bad", bad, folder / "model.onnx")
    assert summary.refused, kind
    assert summary.images <= len(stated(arrays, "certified")) and summary.groups <= 4


@pytest.mark.nightly
def test_hundreds_of_corrupted_proofs_are_refused(tmp_path, proofs):
    folder, arrays = proofs
    accepted = []
    for kind, seed in itertools.product(CORRUPTIONS, range(100, 120)):
        draw = np.random.default_rng(seed)
        bad = CORRUPTIONS[kind](arrays, lambda values: values[int(draw.integers(len(values)))])  # noqa: B023
        if not check(tmp_path / "bad", bad, folder / "model.onnx").refused:
            accepted.append((kind, seed))
    assert len(CORRUPTIONS) * 20 >= 300 and accepted == []


def test_groups_keep_images_that_are_not_among_the_certified(tmp_path):
    """As those that only the group stage proves: the file has what the group's claim rests on."""
    torch.manual_seed(3)
    net = deep_net()
    x, y = images(net, 8, wrong=[2])
    kept, made = Proofs(x, y), ProofFolder(tmp_path, net, Ball(0.05))
    known = {"group_size": 4, "time_limit": 5, "proofs": kept}
    found, after = (certify(net, x, y, 0.05, method=m, **known) for m in ("ibp", "crown"))
    uap = certify_uap(net, x, y, 0.05, certificates=after, relational="none", **known)
    made.store(0, kept, 100, 4, found, uap)
    figures = made.figures(uap)
    with np.load(tmp_path / "00000.npz") as file:
        arrays = dict(file)
    alone = [next(iter(pairs)) for pairs in refuted_in(arrays) if len(pairs) == 1]
    counts = np.bincount([i for i, _ in alone], minlength=8)
    only = np.flatnonzero((counts == 2) & ~found.certified.numpy())
    assert len(only) and int(uap.lower.sum()) > int(found.certified.sum())
    summary = check(tmp_path / "all", arrays, tmp_path / "model.onnx")
    assert (summary.groups, figures.groups, summary.refused) == (2, 2, [])
    for i, c in alone:
        if i in only:
            bad = without_all(arrays, refuted_in(arrays)[frozenset([(i, c)])])
            summary = check(tmp_path / "bad", bad, tmp_path / "model.onnx")
            assert summary.groups == 1 and "are claimed to be safe" in summary.refused[0]


def test_groups_keep_no_more_than_follows_from_the_sets_that_are_left(tmp_path, proofs):
    """Also where one of two images of a set may be broken in another class."""
    folder, arrays = proofs
    labels, groups = stated(arrays, "labels"), stated(arrays, "groups")
    refuted, fell = refuted_in(arrays), 0
    for pairs, entries in [one for one in refuted.items() if len(one[0]) > 1][:6]:
        bad, left = without_all(arrays, entries), refuted.keys() - {pairs}
        most = [safe_by_trying(range(k, k + size), labels, left) for k, size, _ in groups]
        for more in (0, 1):
            claims = [[*g[:2], safe + more] for g, safe in zip(groups, most, strict=True)]
            bad = statement(bad, groups=claims, certified=[])
            summary = check(tmp_path / "bad", bad, folder / "model.onnx")
            assert len(summary.refused) == more * len(groups)
        fell += most != [safe for _, _, safe in groups]
    assert fell


def test_a_file_that_is_there_twice_is_refused(tmp_path, proofs):
    folder, arrays = proofs
    np.savez(tmp_path / "00001.npz", **arrays)
    summary = check(tmp_path, arrays, folder / "model.onnx")
    assert summary.images == len(stated(arrays, "certified"))
    assert summary.refused == ["00001.npz: its images are those of another file"]


def test_uncorrupted_they_hold(tmp_path, proofs):
    folder, arrays = proofs
    summary = check(tmp_path, arrays, folder / "model.onnx")
    assert summary.images == len(stated(arrays, "certified"))
    assert (summary.groups, summary.refused) == (4, [])
