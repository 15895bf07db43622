"""Exact margins and exact survivors of tiny networks on two pixels, by cutting polygons."""

import itertools

import numpy as np
import torch
from torch import nn

from citrus_lirpa import Box

IDENTITY, ORIGIN = np.eye(2), np.zeros(2)


def cut(polygon, normal, offset):
    """The part of a convex polygon, corners (V, 2) in order, where normal . x <= offset."""
    kept = []
    side = polygon @ normal - offset
    for i in range(len(polygon)):
        j = (i + 1) % len(polygon)
        if side[i] <= 0:
            kept.append(polygon[i])
        if side[i] * side[j] < 0:
            kept.append(polygon[i] + (polygon[j] - polygon[i]) * side[i] / (side[i] - side[j]))
    return np.array(kept).reshape(-1, 2)


def cut_all(polygon, cuts):
    for normal, offset in cuts:
        polygon = cut(polygon, normal, offset)
    return polygon


def pieces(layers, polygon, cuts=(), slope=IDENTITY, offset=ORIGIN):
    """Yield (polygon, cuts, slope, offset): there, logits = slope @ x + offset."""
    (weight, bias), *rest = layers
    slope, offset = weight @ slope, weight @ offset + bias
    if not rest:
        yield polygon, cuts, slope, offset
        return
    for pattern in itertools.product((0.0, 1.0), repeat=len(bias)):
        sign = 1 - 2 * np.array(pattern)  # inactive: slope . x <= -offset; active: the reverse
        new = [(s * a, -s * b) for s, a, b in zip(sign, slope, offset, strict=True)]
        part = cut_all(polygon, new)
        if len(part):
            on = np.array(pattern)
            yield from pieces(rest, part, (*cuts, *new), on[:, None] * slope, on * offset)


def layers_of(model):
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    return [(p.weight.detach().double().numpy(), p.bias.detach().double().numpy()) for p in linear]


def square(lower, upper):
    (a, b), (c, d) = lower.tolist(), upper.tolist()
    return np.array([[a, b], [c, b], [c, d], [a, d]])


def exact_margins(model, box: Box, y):
    """(N,) the smallest margin over each box, exact up to float64."""
    lowest = []
    for lower, upper, label in zip(*box, y.tolist(), strict=True):
        found = []
        for corners, _, slope, offset in pieces(layers_of(model), square(lower, upper)):
            logits = corners @ slope.T + offset
            found.append((logits[:, [label]] - np.delete(logits, label, axis=1)).min())
        lowest.append(min(found))
    return torch.tensor(lowest)


def exact_survivors(model, x, y, eps, slack=1e-6) -> int:
    """How many of the correctly classified inputs survive every shared u, |u| <= eps."""
    correct = model(x).argmax(1) == y
    everything = square(torch.full((2,), -eps), torch.full((2,), eps))
    breaking = []  # for each input the convex sets of u that break it, as cuts
    for centre, label in zip(x[correct].double().numpy(), y[correct].tolist(), strict=True):
        sets = []
        for _, cuts, slope, offset in pieces(layers_of(model), everything + centre):
            for wrong in {0, 1, 2} - {label}:
                worse = (slope[label] - slope[wrong], offset[wrong] - offset[label] + slack)
                shifted = [(normal, limit - normal @ centre) for normal, limit in (*cuts, worse)]
                if len(cut_all(everything, shifted)):
                    sets.append(shifted)
        breaking.append(sets)

    def most_broken(breaking, polygon) -> int:
        if not breaking:
            return 0
        parts = [cut_all(polygon, cuts) for cuts in breaking[0]]
        broken = [1 + most_broken(breaking[1:], part) for part in parts if len(part)]
        return max([most_broken(breaking[1:], polygon), *broken])

    return int(correct.sum()) - most_broken(breaking, everything)


def tiny(seed: int, hidden=(5, 4)) -> nn.Sequential:
    torch.manual_seed(seed)
    sizes = (2, *hidden, 3)
    layers = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
        layers[-2].weight.data.normal_()
        layers[-2].bias.data.normal_(0, 0.3)
    return nn.Sequential(*layers[:-1]).eval()
