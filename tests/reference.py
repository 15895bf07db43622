"""The losses written out slowly: Algorithm 1 with loops over pairs, intervals by hand."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from citrus_lirpa.bounds import METHODS
from citrus_lirpa.bounds.margins import logit_margins
from citrus_lirpa.bounds.net import BoundedNet
from citrus_lirpa.losses import LOSSES
from citrus_lirpa.losses.cross_input import Groups, Shifts
from citrus_lirpa.models import Normalise, mlp

SHAPE = (2, 5, 5)
MEAN, STD = (0.4, 0.5), (0.2, 0.25)
TAU_RATIO, EPS = 0.4, 0.1


def small_mlp():
    return nn.Sequential(Normalise(MEAN, STD), *mlp(SHAPE, 3, hidden=[12, 8]))


def small_conv(normalise=True):
    return nn.Sequential(
        *[Normalise(MEAN, STD)] * normalise,
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(),
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 3),
    )  # fmt: skip


MODELS = {"mlp": small_mlp, "conv": small_conv}
model_names = pytest.mark.parametrize("name", MODELS)


def wrapped(model):
    """BatchNorm weights and statistics away from their defaults, in train mode."""
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(layer.weight, -1.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
            layer.running_mean.uniform_(-0.3, 0.3)
            layer.running_var.uniform_(0.5, 2.0)
    return BoundedNet(model, torch.rand(2, *SHAPE)).train()


def batch(n=6):
    return torch.rand(n, *SHAPE), torch.arange(n) % 3


def gradients(total, model):
    return torch.autograd.grad(total, list(model.parameters()), retain_graph=True)


# ------------------------------------------------------------- Algorithm 1, written out


def clean_statistics(model, x):
    """Mean and variance that every BatchNorm sees on the clean batch, with gradient."""
    statistics = {}
    for layer in model:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            channels = x.transpose(0, 1).flatten(1)
            mean = channels.mean(1)
            variance = ((channels - mean[:, None]) ** 2).mean(1)
            statistics[layer] = mean, variance
            view = (1, -1, *[1] * (x.ndim - 2))
            x = (x - mean.view(view)) / (variance.view(view) + layer.eps).sqrt()
            x = x * layer.weight.view(view) + layer.bias.view(view)
        else:
            x = layer(x)
    return statistics


def at_points(layers, statistics, x):
    """What the layers make of points, with the clean batch's statistics."""
    for layer in layers:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            mean, variance = statistics[layer]
            view = (1, -1, *[1] * (x.ndim - 2))
            x = (x - mean.view(view)) / (variance.view(view) + layer.eps).sqrt()
            x = x * layer.weight.view(view) + layer.bias.view(view)
        else:
            x = layer(x)
    return x


def margins_of(logits, label):
    """Of the logits (K,) of one point, over every wrong class in ascending order."""
    return torch.stack([logits[label] - logits[c] for c in range(len(logits)) if c != label])


def intervals(layers, statistics, lower, upper):
    """A box sent through the layers: positive weights take one end, negative the other."""
    for layer in layers:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            mean, variance = statistics[layer]
            view = (1, -1, *[1] * (lower.ndim - 2))
            scale = layer.weight / (variance + layer.eps).sqrt()
            shift = (layer.bias - mean * scale).view(view)
            ends = lower * scale.view(view) + shift, upper * scale.view(view) + shift
            lower, upper = torch.minimum(*ends), torch.maximum(*ends)
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            lower, upper = (
                affine(layer, layer.weight, lower, upper),
                -affine(layer, -layer.weight, lower, upper, sign=-1),
            )
        else:  # Normalise, ReLU and Flatten are monotone
            lower, upper = layer(lower), layer(upper)
    return lower, upper


def interval_margins(model, statistics, lower, upper, label):
    """Lower bounds of the margins of one box, the last layer merged with each difference."""
    layers = list(model)
    lower, upper = intervals(layers[:-1], statistics, lower, upper)
    weight, bias = layers[-1].weight, layers[-1].bias
    margins = []
    for c in range(len(bias)):
        if c != label:
            row = weight[label] - weight[c]
            ends = torch.where(row > 0, lower[0], upper[0])
            margins.append((row * ends).sum() + bias[label] - bias[c])
    return torch.stack(margins)


def affine(layer, weight, lower, upper, sign=1):
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    if isinstance(layer, nn.Linear):
        return lower @ positive.T + upper @ negative.T + sign * layer.bias
    low = F.conv2d(lower, positive, sign * layer.bias, layer.stride, layer.padding)
    return low + F.conv2d(upper, negative, None, layer.stride, layer.padding)


def robust_loss(margins):
    return torch.log(1 + torch.exp(-margins).sum())


def box_margins(model, statistics, lower, upper, y):
    """(B, K-1): of one box for each input."""
    ends = zip(lower.split(1), upper.split(1), y, strict=True)
    return torch.stack([interval_margins(model, statistics, *end) for end in ends])


def mean_loss(margins):
    return sum(robust_loss(row) for row in margins) / len(margins)


def small_box(x, v, eps, tau):
    """Pixel by pixel: as near to x + v as a box of radius τ in the ε-box and the range can be."""
    lower, upper = torch.empty_like(x), torch.empty_like(x)
    for at in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        here = tuple(at)
        lowest, highest = max(0.0, float(x[here]) - eps), min(1.0, float(x[here]) + eps)
        centre = min(max(float(x[here] + v[here]), lowest + tau), highest - tau)
        lower[here], upper[here] = max(lowest, centre - tau), min(highest, centre + tau)
    return lower, upper


def literal_pgd(model, x, y, eps, steps=20, size=0.5):
    """20 steps of eps/2, a tenth of it from steps 10, 16 and 18 on, in eval mode."""
    drops = [math.ceil(steps * share / 10) for share in (5, 8, 9)]
    model.eval()
    v = torch.empty_like(x).uniform_(-1, 1) * eps
    v = (x + v).clamp(0, 1) - x
    for i in range(steps):
        v = v.detach().requires_grad_()
        F.cross_entropy(model(x + v), y, reduction="sum").backward()
        step = size * eps * {0: 1, 1: 0.1, 2: 0.01, 3: 0.001}[sum(i >= drop for drop in drops)]
        v = (v + step * v.grad.sign()).detach().clamp(-eps, eps)
        v = (x + v).clamp(0, 1) - x
    model.zero_grad()
    model.train()
    return v.detach()


def algorithm_1(model, x, y, sees, eps=EPS, tau_ratio=TAU_RATIO):
    """Lines 2 to 8 for one batch: the loss of each pair (i, j)."""
    tau = tau_ratio * eps
    v = literal_pgd(model, x, y, eps - tau)
    return cross_input_losses(model, x, y, v, tau, sees)


def cross_input_losses(model, x, y, v, tau, sees, alpha=1.0):
    """(B, m), box by box; mixed with the loss at the middle of each box where alpha < 1."""
    statistics = clean_statistics(model, x)
    losses = []
    for i in range(len(x)):
        of_input = []
        for j in sees(i):
            centre = x[i : i + 1] + v[j : j + 1]
            lower, upper = (centre - tau).clamp(0, 1), (centre + tau).clamp(0, 1)
            margins = interval_margins(model, statistics, lower, upper, y[i])
            middle = at_points(model, statistics, (lower + upper) / 2)
            attacked = F.cross_entropy(middle, y[i : i + 1])
            of_input.append(alpha * robust_loss(margins) + (1 - alpha) * attacked)
        losses.append(torch.stack(of_input))
    return torch.stack(losses)


PAIRINGS = {
    "groups": (Groups(3), lambda i: [j for j in range(i // 3 * 3, i // 3 * 3 + 3) if j != i]),
    "shifts": (Shifts(2), lambda i: [(i + 1) % 6, (i + 2) % 6]),
    "with itself": (Groups(2, include_self=True), lambda i: [i // 2 * 2, i // 2 * 2 + 1]),
    "shifts with itself": (Shifts(2, include_self=True), lambda i: [i, (i + 1) % 6, (i + 2) % 6]),
}


# -------------------------------------------------------------------- every loss there is

#: Values of the options that have no default.
REQUIRED = {"tau_ratio": TAU_RATIO, "alpha": 0.3}
#: Options that bring more code with them, one entry each beside the plain loss.
VARIANTS = {
    "citrus, worst of universal": ("citrus", dict(worst=2, universal=3, alpha=0.5)),
    "citrus, groups": ("citrus", dict(pairing="groups", partners=2, include_self=True)),
    "citrus, pairs": ("citrus", dict(k=3, partners=3, worst=2, universal=1)),
    "citrus, crown-ibp": ("citrus", dict(method="crown-ibp", partners=2)),
    "citrus, crown": ("citrus", dict(method="crown", partners=2)),
    "ibp, crown-ibp": ("ibp", dict(method="crown-ibp")),
    "ibp, crown": ("ibp", dict(method="crown")),
    "mtl-ibp, wider attack": ("mtl-ibp", dict(attack_ratio=2.1)),
}
#: The losses of classifiers.
CLASSIFYING = [name for name in LOSSES if name != "denoiser"]
every_loss = pytest.mark.parametrize("name", [*CLASSIFYING, *VARIANTS])


def make(name, max_eps=EPS):
    """Make a loss as a configuration does; for CROWN-IBP in the middle of its ramp."""
    name, options = VARIANTS.get(name, (name, {}))
    for key, parameter in inspect.signature(LOSSES[name]).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            options = {key: REQUIRED[key], **options}
    return LOSSES[name]((2 if name == "crown-ibp" else 1) * max_eps, **options)


#: Of a bound, relative to the logits.
TOLERANCE = 1e-5


def assert_contains(net, box, y, model, methods=tuple(METHODS), samples=1000):
    """Sampled points of the boxes, half of them corners, keep the bounds of ``net``."""
    share = torch.rand(samples, *box.lower.shape)
    share[::2] = share[::2].round()
    points = torch.lerp(box.lower, box.upper, share)
    with torch.no_grad():
        logits = model(points.flatten(0, 1))
        lowest = logit_margins(logits, y.repeat(samples)).view(samples, len(y), -1).amin(0)
    slack = TOLERANCE * float(logits.abs().max().clamp(min=1))
    for method in methods:
        assert (net.margins(box, y, method) <= lowest + slack).all(), method
