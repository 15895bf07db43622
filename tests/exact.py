"""The whole relational problem of a small ReLU network as one mixed-integer program.

One perturbation u, |u| <= eps (a number, or one for each pixel), is added to every image of a
group (and the sum cut to [0, 1] with ``clip``); every image's network is encoded, with big-M
from interval bounds in float64, and the number of images that some wrong class overtakes is
maximised (scipy's HiGHS). Nothing of citrus_lirpa is used: modules are run on a basis to find
what they compute.

HiGHS works to tolerances of about 1e-6. An answer is given only where it does not depend on
them: every margin shifted by ``SHIFT`` up and down must give the same count, and the
perturbation found for the harder of the two problems must break that many images in float64.
"""

import copy
import itertools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import nn

#: Margins are moved by this much to see whether the answer stands on a tie.
SHIFT = 1e-5


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, *body: nn.Module):
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x):
        return x + self.body(x)


class Larger(nn.Module):
    """The larger of two values of x, or the smaller."""

    def __init__(self, first: nn.Module, second: nn.Module, function=torch.maximum):
        super().__init__()
        self.first, self.second, self.function = first, second, function

    def forward(self, x):
        return self.function(self.first(x), self.second(x))


class Absolute(nn.Module):
    """|x|."""

    def forward(self, x):
        return x.abs()


class Limited(nn.Module):
    """x, no lower than ``low`` and no higher than ``high``."""

    def __init__(self, low: float | None = None, high: float | None = None):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x):
        return x.clamp(self.low, self.high)


@dataclass
class Value:
    """Affine expressions in the program's variables, with bounds: matrix (n, width),
    constant, low, high (n,), of one activation of shape ``shape``."""

    matrix: np.ndarray
    constant: np.ndarray
    low: np.ndarray
    high: np.ndarray
    shape: tuple[int, ...]


class Program:
    """Variables and constraints of a mixed-integer program, added one after the other."""

    def __init__(self, width: int):
        self.width = width
        self.low, self.high, self.integral = [], [], []
        self.rows, self.upper = [], []

    def variables(self, low, high, integral=False) -> np.ndarray:
        first = len(self.low)
        self.low += list(low)
        self.high += list(high)
        self.integral += [int(integral)] * len(low)
        assert len(self.low) <= self.width
        return np.arange(first, len(self.low))

    def at_most(self, row: np.ndarray, upper: float) -> None:
        """row @ variables <= upper."""
        self.rows.append(row)
        self.upper.append(upper)

    def unit(self, column: int, factor: float = 1.0) -> np.ndarray:
        row = np.zeros(self.width)
        row[column] = factor
        return row

    def minimise(self, cost: np.ndarray) -> np.ndarray:
        """The variables where cost @ variables is smallest."""
        count = len(self.low)
        constraints = ()
        if self.rows:
            constraints = LinearConstraint(np.array(self.rows)[:, :count], ub=np.array(self.upper))
        answer = milp(
            cost[:count],
            constraints=constraints,
            bounds=Bounds(np.array(self.low), np.array(self.high)),
            integrality=np.array(self.integral),
            options={"mip_rel_gap": 0.0},
        )
        assert answer.status == 0, answer.message
        return answer.x

    # -- layers -------------------------------------------------------------------

    def through(self, module: nn.Module, value: Value) -> Value:
        """The value of a module (float64, eval mode) on a value."""
        if isinstance(module, nn.Sequential):
            for layer in module:
                value = self.through(layer, value)
            return value
        if isinstance(module, nn.ReLU):
            return self.relu(value)
        if isinstance(module, Residual):
            return self.sum(value, self.through(module.body, value))
        if isinstance(module, nn.LeakyReLU):
            return self.bent(value, module.negative_slope)
        if isinstance(module, nn.PReLU):
            return self.bent(value, per_channel(module.weight, value.shape))
        if isinstance(module, Absolute):
            return self.bent(value, -1.0)
        if isinstance(module, nn.Hardtanh):  # and ReLU6
            return self.between(value, module.min_val, module.max_val)
        if isinstance(module, Limited):
            return self.between(value, module.low, module.high)
        if isinstance(module, Larger):
            both = [self.through(part, value) for part in (module.first, module.second)]
            if module.function is torch.maximum:
                return self.largest(both)
            return self.scaled(self.largest([self.scaled(v, -1.0) for v in both]), -1.0)
        if isinstance(module, nn.MaxPool2d):
            return self.pooled(module, value)
        return self.affine(module, value)

    # sums, and functions of one value by ReLUs: not as citrus_lirpa writes them

    @staticmethod
    def sum(a: Value, b: Value) -> Value:
        return Value(
            a.matrix + b.matrix, a.constant + b.constant, a.low + b.low, a.high + b.high, a.shape
        )

    @staticmethod
    def scaled(z: Value, factor, shift=0.0) -> Value:
        """factor * z + shift, for one factor or one for each element."""
        f = np.broadcast_to(factor, z.constant.shape)
        ends = np.sort([f * z.low + shift, f * z.high + shift], axis=0)
        return Value(f[:, None] * z.matrix, f * z.constant + shift, *ends, z.shape)

    def bent(self, z: Value, slope) -> Value:
        """z where it is positive, slope * z elsewhere."""
        return self.sum(self.relu(z), self.scaled(self.relu(self.scaled(z, -1.0)), -slope))

    def between(self, z: Value, low, high) -> Value:
        """low + relu(z - low) - relu(z - high); z - relu(z - high) without low."""
        start = z if low is None else self.scaled(self.relu(self.scaled(z, 1.0, -low)), 1.0, low)
        if high is None:
            return start
        return self.sum(start, self.scaled(self.relu(self.scaled(z, 1.0, -high)), -1.0))

    def largest(self, values: list[Value]) -> Value:
        """y >= each value, and y <= that one whose binary is 1."""
        first = values[0]
        matrix = np.zeros_like(first.matrix)
        low = np.max([v.low for v in values], axis=0)
        high = np.max([v.high for v in values], axis=0)
        for k in range(len(first.constant)):
            (y,) = self.variables([low[k]], [high[k]])
            chosen = self.variables([0.0] * len(values), [1.0] * len(values), integral=True)
            for v, d in zip(values, chosen, strict=True):
                most = high[k] - v.low[k]
                self.at_most(v.matrix[k] - self.unit(y), -v.constant[k])
                self.at_most(self.unit(y) - v.matrix[k] + self.unit(d, most), v.constant[k] + most)
            self.at_most(-sum(self.unit(d) for d in chosen), -1.0)
            matrix[k, y] = 1.0
        return Value(matrix, np.zeros_like(first.constant), low, high, first.shape)

    def pooled(self, module: nn.MaxPool2d, value: Value) -> Value:
        """The largest value of each window; padding never counts."""
        places = torch.arange(1.0, len(value.constant) + 1).view(1, *value.shape)
        shape = tuple(module(places).shape[1:])
        options = module.dilation, module.padding, module.stride
        windows = nn.functional.unfold(places, module.kernel_size, *options)
        windows = windows.view(shape[0], -1, shape[1] * shape[2]).transpose(1, 2).flatten(0, 1)
        found = []
        for window in windows.long().tolist():
            inside = [at - 1 for at in window if at]
            parts = [
                Value(*(array[[at]] for array in (value.matrix, value.constant, value.low,
                      value.high)), (1,))
                for at in inside
            ]  # fmt: skip
            found.append(self.largest(parts))
        names = ("matrix", "constant", "low", "high")
        return Value(*(np.concatenate([getattr(v, n) for v in found]) for n in names), shape)

    def affine(self, module: nn.Module, value: Value) -> Value:
        n = len(value.constant)
        basis = torch.cat([torch.zeros(1, n), torch.eye(n)]).double().view(-1, *value.shape)
        with torch.no_grad():
            images = module(basis)
        flat = images.flatten(1).numpy()
        matrix = (flat[1:] - flat[0]).T
        up, down = matrix.clip(min=0), matrix.clip(max=0)
        return Value(
            matrix @ value.matrix,
            matrix @ value.constant + flat[0],
            up @ value.low + down @ value.high + flat[0],
            up @ value.high + down @ value.low + flat[0],
            tuple(images.shape[1:]),
        )

    def relu(self, z: Value) -> Value:
        """Exact: y >= z, y >= 0, y <= high d, y <= z - low (1 - d) for a binary d."""
        matrix, constant = np.zeros_like(z.matrix), np.zeros_like(z.constant)
        for k in range(len(constant)):
            low, high = z.low[k], z.high[k]
            if low >= 0:
                matrix[k], constant[k] = z.matrix[k], z.constant[k]
            elif high > 0:
                (y,) = self.variables([0.0], [high])
                (d,) = self.variables([0.0], [1.0], integral=True)
                self.at_most(z.matrix[k] - self.unit(y), -z.constant[k])
                self.at_most(self.unit(y) - self.unit(d, high), 0.0)
                self.at_most(self.unit(y) - z.matrix[k] - self.unit(d, low), z.constant[k] - low)
                matrix[k, y] = 1.0
        return Value(matrix, constant, z.low.clip(min=0), z.high.clip(min=0), z.shape)

    def clipped(self, x: Value) -> Value:
        """x cut to [0, 1], as relu(x) and then 1 - relu(1 - x)."""
        x = self.relu(x)
        return self.one_minus(self.relu(self.one_minus(x)))

    @staticmethod
    def one_minus(x: Value) -> Value:
        return Value(-x.matrix, 1 - x.constant, 1 - x.high, 1 - x.low, x.shape)


def most_broken(model: nn.Module, x, y, eps: float, *, clip: bool = False):
    """(count, u): the most images (of all given) that one |u| <= eps makes misclassified, and
    such a u (...) in float64; None where the answer stands on a tie."""
    exact, x = copy.deepcopy(model).double().eval(), x.double()
    easier, _ = _solve(exact, x, y, eps, clip, -SHIFT)
    if easier == 0:
        return 0, torch.zeros_like(x[0])
    harder, u = _solve(exact, x, y, eps, clip, SHIFT)
    margins = smallest_margins(exact, x, y, u, clip)
    if easier != harder or int((margins < 0).sum()) < harder:
        return None
    return harder, u


def breakable(model: nn.Module, x, y, eps: float, *, clip: bool = False):
    """Per image, whether some |u| <= eps breaks it alone; None for a tie."""
    found = [most_broken(model, x[i : i + 1], y[i : i + 1], eps, clip=clip) for i in range(len(x))]
    return [None if answer is None else answer[0] == 1 for answer in found]


@torch.no_grad()
def smallest_margins(model: nn.Module, x, y, u, clip: bool = False):
    """(N,): of x + u, in float64."""
    moved = x.double() + u.double()
    logits = copy.deepcopy(model).double().eval()(moved.clamp(0, 1) if clip else moved)
    own = logits.gather(1, y.view(-1, 1)).squeeze(1)
    return own - logits.scatter(1, y.view(-1, 1), -torch.inf).amax(1)


def _solve(model, x, y, eps: float, clip: bool, shift: float):
    """The most images with a margin <= -shift, and a perturbation."""
    eps = _flat(eps, x)
    program, free = _start(x, eps, model)
    broken = []
    for image, label in zip(x, y.tolist(), strict=True):
        logits = _logits(program, model, image, free, eps, clip)
        (k,) = program.variables([0.0], [1.0], integral=True)
        some = program.unit(k)
        for wrong in range(len(logits.constant)):
            if wrong == label:
                continue
            margin = logits.matrix[label] - logits.matrix[wrong]
            constant = logits.constant[label] - logits.constant[wrong] + shift
            most = max(0.0, logits.high[label] - logits.low[wrong] + shift)
            (p,) = program.variables([0.0], [1.0], integral=True)
            program.at_most(margin + program.unit(p, most), most - constant)
            some -= program.unit(p)
        program.at_most(some, 0.0)
        broken.append(k)
    answer = program.minimise(-sum(program.unit(k) for k in broken))
    u = torch.from_numpy(answer[free].clip(-eps, eps)).view(x.shape[1:])
    return round(float(answer[broken].sum())), u


def lowest_margin(model: nn.Module, image, label: int, eps: float, *, clip: bool = False) -> float:
    """The smallest margin of one image under any |u| <= eps, up to the solver's tolerance."""
    exact, image = copy.deepcopy(model).double().eval(), image.double()
    eps = _flat(eps, image.unsqueeze(0))
    program, free = _start(image.unsqueeze(0), eps, exact)
    logits = _logits(program, exact, image, free, eps, clip)
    lowest = np.inf
    for wrong in set(range(len(logits.constant))) - {label}:
        cost = logits.matrix[label] - logits.matrix[wrong]
        u = torch.from_numpy(program.minimise(cost)[free]).view(image.shape)
        margin = smallest_margins(exact, image[None], torch.tensor([label]), u, clip)
        lowest = min(lowest, float(margin))
    return lowest


def _flat(eps, x) -> np.ndarray:
    """The ε of every pixel in one row; eps is a number or broadcasts to an image."""
    return np.broadcast_to(np.asarray(eps, float), x.shape[1:]).flatten()


def _start(x, eps: np.ndarray, model):
    """A program for images x, and its columns of the perturbation they share."""
    n = x[0].numel()
    program = Program(n + len(x) * (4 * n + 2 * _relus(model, x[:1]) + 20))
    return program, program.variables(-eps, eps)


def _logits(program: Program, model, image, free, eps: np.ndarray, clip: bool) -> Value:
    centre = image.flatten().numpy()
    moved = np.zeros((len(centre), program.width))
    moved[np.arange(len(centre)), free] = 1.0
    value = Value(moved, centre, centre - eps, centre + eps, tuple(image.shape))
    return program.through(model, program.clipped(value) if clip else value)


def per_channel(values, shape) -> np.ndarray:
    """One value, or one for each channel, as one for each element of a shape."""
    columns = values.detach().double().numpy().reshape(-1, *[1] * (len(shape) - 1))
    return np.broadcast_to(columns, shape).reshape(-1)


#: How many times two variables an element of a layer may need.
BENT = {
    nn.ReLU: 1, nn.LeakyReLU: 2, nn.PReLU: 2, Absolute: 2, nn.Hardtanh: 2, nn.ReLU6: 2,
    Limited: 2, Larger: 2, nn.MaxPool2d: 5,
}  # fmt: skip


def _relus(model: nn.Module, x) -> int:
    """How many ReLUs would need as many variables."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda m, _i, out: seen.append(BENT[type(m)] * out.numel()))
        for layer in model.modules()
        if type(layer) in BENT
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return sum(seen)


# ------------------------------------------------------------------------- small networks

KINDS = ("mlp", "deep", "conv", "residual", "batchnorm", "normalise")
#: Those of images (1, 3, 3), by what comes before the linear layers.
IMAGE_KINDS = {
    "average pooling": lambda: [nn.Conv2d(1, 3, 2), nn.ReLU(), nn.AvgPool2d(2)],
    "zero padding": lambda: [nn.ZeroPad2d((1, 0, 0, 1)), nn.Conv2d(1, 1, 2), nn.ReLU()],
    "dilation": lambda: [nn.Conv2d(1, 3, 2, dilation=2, bias=False), nn.ReLU()],
    "groups": lambda: [nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Conv2d(2, 4, 2, groups=2), nn.ReLU()],
    "strides": lambda: [nn.Conv2d(1, 3, 2, stride=2, padding=1), nn.ReLU()],
    "convolutional residual": lambda: [
        nn.Conv2d(1, 2, 2), nn.ReLU(), Residual(nn.Conv2d(2, 2, 1), nn.ReLU()), nn.ReLU()
    ],
    "shifted": lambda: [nn.BatchNorm2d(1), nn.Conv2d(1, 2, 2), nn.ReLU()],
}  # fmt: skip
#: Those with other piecewise linear layers.
BENT_KINDS = {
    "leaky": lambda: [nn.Conv2d(1, 2, 2), nn.LeakyReLU(0.2)],
    "leaky beyond 1": lambda: [nn.Conv2d(1, 2, 2), nn.LeakyReLU(1.5), nn.Conv2d(2, 2, 1),
                               nn.LeakyReLU(-0.4)],
    "prelu": lambda: [nn.Conv2d(1, 2, 2), nn.PReLU(2)],
    "relu6": lambda: [nn.Conv2d(1, 2, 2), nn.ReLU6()],
    "hardtanh": lambda: [nn.Conv2d(1, 2, 2), nn.Hardtanh(-0.3, 0.4)],
    "clamp below": lambda: [nn.Conv2d(1, 2, 2), Limited(low=0.1)],
    "clamp above": lambda: [nn.Conv2d(1, 2, 2), Limited(high=0.3)],
    "absolute": lambda: [nn.Conv2d(1, 2, 2), Absolute()],
    "maximum": lambda: [Larger(nn.Conv2d(1, 2, 2), nn.Conv2d(1, 2, 2))],
    "minimum": lambda: [Larger(nn.Conv2d(1, 2, 2), nn.Conv2d(1, 2, 2), torch.minimum)],
    "max pooling": lambda: [nn.Conv2d(1, 1, 2, padding=1), nn.ReLU(), nn.MaxPool2d(2)],
    "overlapping windows": lambda: [nn.Conv2d(1, 1, 2), nn.MaxPool2d(2, 1, padding=1)],
    "dilated windows": lambda: [nn.Conv2d(1, 1, 1), nn.MaxPool2d(2, 1, dilation=2), nn.ReLU()],
}  # fmt: skip


def random_net(kind: str, seed: int, classes: int = 3) -> tuple[nn.Sequential, tuple[int, ...]]:
    """A net of 4 to 12 ReLUs with random weights, in eval mode, and the shape of its input."""
    from citrus_lirpa.models import Normalise

    generator = torch.Generator().manual_seed(seed)
    pixels = 2 + seed % 4
    if kind == "mlp":
        shape, layers = (pixels,), [nn.Linear(pixels, 6), nn.ReLU(), nn.Linear(6, classes)]
    elif kind == "deep":
        shape = (pixels,)
        layers = [nn.Linear(pixels, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU()]
        layers += [nn.Linear(4, classes)]
    elif kind == "conv":
        shape = (1, 3, 3)
        layers = [nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, classes)]
    elif kind == "residual":
        shape = (pixels,)
        body = Residual(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        layers = [nn.Linear(pixels, 4), nn.ReLU(), body, nn.ReLU(), nn.Linear(4, classes)]
    elif kind == "batchnorm":
        shape = (1, 2, 2)
        layers = [nn.Conv2d(1, 2, 2, padding=1, stride=2), nn.BatchNorm2d(2), nn.ReLU()]
        layers += [nn.Flatten(), nn.Linear(8, classes)]
    elif kind in (made := IMAGE_KINDS | BENT_KINDS):
        shape, layers = (1, 3, 3), made[kind]()
        width = nn.Sequential(*layers).eval()(torch.zeros(1, *shape)).numel()
        layers += [nn.Flatten(), nn.Linear(width, classes, bias=seed % 2 == 0)]
    else:
        shape = (1, 2, 2)
        layers = [Normalise((0.4,), (0.3,)), nn.Flatten(), nn.Linear(4, 6), nn.ReLU()]
        layers += [nn.Linear(6, classes)]
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for layer in model.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight /= layer.weight[0].numel() ** 0.5
                if layer.bias is not None:
                    layer.bias /= 3
            if isinstance(layer, nn.BatchNorm2d):
                channels = len(layer.running_mean)
                layer.running_mean.copy_(torch.randn(channels, generator=generator))
                layer.running_var.copy_(0.5 + torch.rand(channels, generator=generator))
    return model, shape


@torch.no_grad()
def random_images(model, shape, seed: int, count: int, wrong: int = 0):
    """Images in [0, 1], many pixels at its ends, and the labels the net gives them.

    Of more, those with the smallest margins: they break alone, but not all together. The
    first ``wrong`` labels are not what the net gives.
    """
    generator = torch.Generator().manual_seed(seed)
    x = (1.6 * torch.rand(8 * count, *shape, generator=generator) - 0.3).clamp(0, 1)
    two = model(x).topk(2, dim=1).values
    x = x[(two[:, 0] - two[:, 1]).argsort()[:count]]
    x = x[torch.randperm(count, generator=generator)]
    logits = model(x)
    y = logits.argmax(1)
    y[:wrong] = (y[:wrong] + 1) % logits.shape[1]
    return x, y


def partitions(items: list[int]):
    """All ways to split a list into non-empty parts."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for size in range(len(rest) + 1):
        for others in itertools.combinations(rest, size):
            left = [i for i in rest if i not in others]
            for parts in partitions(left):
                yield [[first, *others], *parts]
