"""Every public function under nonsense: a refusal of one line, or a right answer."""

import functools
import inspect
import math
from pathlib import Path

import pytest
import torch
from auto_LiRPA import BoundedModule
from fuzzing import arguments, explore, once, refused, sizes, values
from hypothesis import strategies as st
from reference import SHAPE, small_conv, small_mlp
from torch import nn

import citrus_lirpa
from citrus_lirpa import (
    METHODS,
    PGD,
    BoundedNet,
    Box,
    GroupAttack,
    Groups,
    Protocol,
    SgdUap,
    Shifts,
    certify,
    certify_uap,
    cross_input_boxes,
    evaluate,
    robust_cross_entropy,
    shi_initialise,
    shi_regulariser,
    try_uap,
)
from citrus_lirpa.bounds.box import clamp
from citrus_lirpa.data.types import DatasetSpec, Split
from citrus_lirpa.losses import LOSSES

pytestmark = pytest.mark.filterwarnings("ignore:images range from", "ignore:ε is more than")
N = 6
INF, NAN = math.inf, math.nan


def flat(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(50, 8), activation, nn.Linear(8, 3))


@functools.cache
def nets() -> dict[str, object]:
    """Networks of all kinds that are bounded: by a plan, by auto_LiRPA, without a ReLU."""
    torch.manual_seed(0)
    x = torch.rand(2, *SHAPE)
    makers = {"mlp": small_mlp, "conv": small_conv, "sigmoid": lambda: flat(nn.Sigmoid()),
              "affine": lambda: nn.Sequential(nn.Flatten(), nn.Linear(50, 3))}  # fmt: skip
    made = {name: BoundedNet(make(), x) for name, make in makers.items()}
    return {**made, "module": BoundedModule(flat(nn.ReLU()), x)}


@functools.cache
def wrong_nets() -> dict[str, object]:
    x = torch.rand(2, *SHAPE)
    return {
        "none": None,
        "text": "mlp",
        "plain": small_mlp(),
        "double": BoundedNet(small_mlp().double(), x.double()),
    }


def spoiled(value: float, everywhere: bool = False) -> torch.Tensor:
    x = torch.rand(N, *SHAPE)
    x.view(-1)[0 if not everywhere else slice(None)] = value
    return x


X = {
    "pixels": lambda: torch.rand(N, *SHAPE),
    "ends": lambda: torch.rand(N, *SHAPE).round(),
    "gradient": lambda: torch.rand(N, *SHAPE).requires_grad_(),
    "expanded": lambda: torch.rand(1, *SHAPE).expand(N, *SHAPE),
    "transposed": lambda: torch.rand(N, SHAPE[0], SHAPE[2], SHAPE[1]).transpose(2, 3),
}
WRONG_X = {
    **{f"shape {shape}": functools.partial(torch.rand, shape)
       for shape in [(), (0, *SHAPE), (N, 2, 5), (N, 2, 5, 6), SHAPE, (N, 50), (N, 1, 5, 5),
                     (1, *SHAPE), (N + 1, *SHAPE)]},
    **{str(kind): functools.partial(torch.ones, (N, *SHAPE), dtype=kind)
       for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8,
                    torch.bool, torch.complex64)},
    **{f"all {value}": functools.partial(spoiled, value, True)
       for value in (NAN, INF, -INF, 1e30, -5.0, 255.0)},
    **{f"one {value}": functools.partial(spoiled, value) for value in (NAN, -INF, 1e38)},
    "meta": lambda: torch.rand(N, *SHAPE, device="meta"),
    "sparse": lambda: torch.rand(N, *SHAPE).to_sparse(),
    "array": lambda: torch.rand(N, *SHAPE).numpy(),
    "list": lambda: [[0.5]],
    "none": lambda: None,
}  # fmt: skip
Y = {"labels": lambda: torch.arange(N) % 3, "zeros": lambda: torch.zeros(N, dtype=torch.int64)}
WRONG_Y = {
    **{f"shape {shape}": functools.partial(torch.zeros, shape, dtype=torch.int64)
       for shape in [(), (0,), (N, 1), (N + 1,), (1,)]},
    **{str(kind): functools.partial(torch.zeros, (N,), dtype=kind)
       for kind in (torch.int32, torch.uint8, torch.float32, torch.bool, torch.complex64)},
    **{f"label {label}": functools.partial(torch.full, (N,), label)
       for label in (-1, 3, 2**62, -(2**62))},
    "meta": lambda: torch.zeros(N, dtype=torch.int64, device="meta"),
    **once(list=[0] * N, none=None),
}  # fmt: skip
NONSENSE = once(
    nan=NAN, inf=INF, negative=-1, text="0.1", none=None, list=[0.1], imaginary=1j, huge=1e300,
    giant=10**30, tensor_nan=torch.tensor(NAN), tensor_many=torch.rand(7),
    tensor_meta=torch.tensor(0.1, device="meta"), tensor_empty=torch.tensor([]),
    tensor_complex=torch.tensor(1j),
)  # fmt: skip
NUMBER = {**NONSENSE, **once(zero=0, true=True, tiny=1e-45, whole=10**9 + 0.5)}
COUNT = {**NONSENSE, **once(zero=0, half=2.5, true=True, tensor=torch.tensor(2))}
EPS = once(small=0.01, usual=0.05, zero=0.0, whole=1)
WRONG_EPS = {**NONSENSE, **once(tiny=1e-45, large=3.0, vast=1e30, over=1e38)}
SCALARS = {**EPS, **once(channels=torch.full((2, 1, 1), 0.1), scalar=torch.tensor(0.1))}
WORD = once(empty="", none=None, unknown="nope", number=3, list=["ibp"], tensor=torch.rand(3))
CLIP = once(pixels=(0.0, 1.0), none=None, channels=(torch.zeros(2, 1, 1), torch.ones(2, 1, 1)),
            open=(-INF, INF), list=[0, 1])  # fmt: skip
WRONG_CLIP = once(
    reversed=(1.0, 0.0), nan=(0.0, NAN), one=(0,), three=(0.0, 0.5, 1.0), text="01", number=5,
    nothing=(None, None), point=(0.5, 0.5), huge=(0, 1e300), foreign=(torch.ones(3), 2.0),
    crossed=(torch.zeros(2, 1, 1), torch.full((2, 1, 1), -1.0)), empty=(torch.tensor([]), 1.0),
    meta=(torch.zeros(2, 1, 1, device="meta"), 1.0), complex=(0j, 1.0),
)  # fmt: skip
NET = {name: (lambda name=name: nets()[name]) for name in ("mlp", "conv", "module", "sigmoid",
                                                           "affine")}  # fmt: skip
WRONG_NET = {name: (lambda name=name: wrong_nets()[name])
             for name in ("none", "text", "plain", "double")}  # fmt: skip


def survives(net, x, y, eps, clip, kept) -> None:
    """No corner, no random point and no attack breaks what is said to be safe."""
    net = net if isinstance(net, BoundedNet) else BoundedNet(net)
    x, y = torch.as_tensor(x)[kept].detach(), y[kept].long()
    x = x.to(net.like.dtype) / (255 if x.dtype == torch.uint8 else 1)
    if len(x) == 0:
        return
    tried = [torch.rand_like(x) * 2 - 1 for _ in range(8)]
    tried += [v.sign() for v in tried]
    points = [clamp(x + eps * v, clip) for v in tried]
    if eps > 0:
        points.append(clamp(x + PGD(10, clip=clip)(net, x, y, eps), clip))
    with net.evaluating(), torch.no_grad():
        assert all(bool((net(point).argmax(1) == y).all()) for point in points)


# -- certificates -------------------------------------------------------------------

GOOD_CERTIFY = {
    "net": NET,
    "x": X,
    "y": Y,
    "eps": EPS,
    "method": once(**{name.replace("-", "_"): name for name in (*METHODS, "bab")}),
    "time_limit": once(short=0.2, none=0),
    "clip": CLIP,
    "batch_size": once(many=256, two=2),
    "group_size": once(one=1, two=2),
    "attack": once(none=None, pgd=PGD(2)),
    "known": once(none=None),
}
BAD_CERTIFY = {
    "net": WRONG_NET, "x": WRONG_X, "y": WRONG_Y, "eps": WRONG_EPS, "method": WORD,
    "time_limit": NONSENSE, "clip": WRONG_CLIP, "batch_size": COUNT, "group_size": COUNT,
    "attack": once(text="pgd", number=3),
    "known": once(text="1", short=torch.ones(2).long(), float=torch.zeros(N),
                  wild=torch.full((N,), 7), meta=torch.zeros(N, device="meta").long()),
}  # fmt: skip


@sizes(60, 500)
def test_certify(cases):
    proved = 0

    def check(case) -> None:
        nonlocal proved
        torch.manual_seed(0)
        given = values(case, GOOD_CERTIFY, BAD_CERTIFY)
        net, x, y, eps = (given[name] for name in ("net", "x", "y", "eps"))
        found = []
        if refused(lambda: found.append(certify(**given))):
            return
        (certificates,) = found
        proved += int(certificates.certified.sum())
        assert not bool((certificates.certified & ~certificates.correct).any())
        assert not bool((certificates.certified & certificates.attacked).any())
        survives(net, x, y, eps, given["clip"], certificates.certified)

    explore(cases, check, arguments(GOOD_CERTIFY, BAD_CERTIFY))
    assert proved > cases / 10  # the check would mean nothing otherwise


GOOD_UAP = {
    **{name: GOOD_CERTIFY[name] for name in ("net", "x", "y", "eps", "time_limit", "clip",
                                             "batch_size")},
    "group_size": once(two=2, four=4),
    "relational": once(none="none", io="io", cross="cross"),
    "solver": once(highs="highs"),
    "attack": once(quick=GroupAttack(steps=2, restarts=1)),
    "certificates": once(none=None),
}  # fmt: skip
BAD_UAP = {
    **{name: BAD_CERTIFY[name] for name in ("net", "x", "y", "eps", "time_limit", "clip",
                                            "batch_size", "group_size")},
    "relational": WORD, "solver": WORD,
    "attack": once(text="x", pgd=PGD(2)), "certificates": once(text="x", pair=(1, 2)),
}  # fmt: skip


@sizes(40, 300)
def test_certify_uap(cases):
    def check(case) -> None:
        torch.manual_seed(0)
        given = values(case, GOOD_UAP, BAD_UAP)
        found = []
        if refused(lambda: found.append(certify_uap(**given))):
            return
        net, x, y, eps, clip = (given[name] for name in ("net", "x", "y", "eps", "clip"))
        (uap,) = found
        assert bool((uap.lower >= 0).all()) and bool((uap.upper <= uap.size).all())
        assert bool((uap.lower <= uap.upper).all())
        size = given["group_size"]
        net = net if isinstance(net, BoundedNet) else BoundedNet(net)
        for g in range(len(uap.size)):  # one perturbation leaves as many safe as were proved
            rows = slice(g * size, g * size + size)
            for u in (2 * torch.rand(8, *SHAPE) - 1).sign() * eps:
                with torch.no_grad(), net.evaluating():
                    safe = net(clamp(x[rows] + u, clip)).argmax(1) == y[rows]
                assert int(safe.sum()) >= int(uap.lower[g])

    explore(cases, check, arguments(GOOD_UAP, BAD_UAP))


GOOD_PROTOCOL = {
    "eps": EPS,
    "method": once(crown="crown", ibp="ibp"),
    "relational": once(none="none", io="io"),
    "group_size": once(two=2, three=3),
    "time_limit": once(short=0.1),
    "solver": once(highs="highs"),
    "limit": once(none=None, six=6),
    "clip": CLIP,
    "batch_size": once(many=256, four=4),
    "seed": once(zero=0, largest=2**32 - 1),
    "size": once(fits=(2, 5, 5)),
    "images": once(eight=8),
}
BAD_PROTOCOL = {
    **{name: BAD_UAP[name] for name in ("eps", "relational", "group_size", "time_limit", "solver",
                                        "clip", "batch_size")},
    "method": WORD, "seed": {**COUNT, **once(large=2**32)}, "limit": COUNT,
    "size": once(wide=(2, 5, 7), grey=(1, 5, 5), small=(2, 4, 5)), "images": once(none=0, one=1),
}  # fmt: skip


@sizes(15, 150)
def test_evaluate(cases):
    def check(case) -> None:
        given = values(case, GOOD_PROTOCOL, BAD_PROTOCOL)
        shape, count = given.pop("size"), given.pop("images")
        torch.manual_seed(0)
        split = Split(torch.randint(256, (count, *shape)).byte(), torch.arange(count) % 3)
        spec = DatasetSpec(name="noise", shape=SHAPE, class_names=tuple("abc"), loader=None)

        def run() -> None:
            record = evaluate(nets()["mlp"], split, spec, Protocol(**given)).record()
            certified = record["uap_accuracy"]["certified"]
            assert 0 <= certified <= record["uap_accuracy"]["attacked"] <= 1

        refused(run)

    explore(cases, check, arguments(GOOD_PROTOCOL, BAD_PROTOCOL))


# -- training -----------------------------------------------------------------------

OPTIONS = {
    "tau_ratio": once(half=0.5), "alpha": once(half=0.5), "worst": once(none=0, one=1),
    "universal": once(none=0, two=2), "partners": once(two=2), "reduction": once(sum="sum"),
    "method": once(ibp="ibp"), "pairing": once(shifts="shifts", groups="groups"),
    "attack_steps": once(two=2), "attack_step_size": once(half=0.5), "attack_restarts": once(one=1),
    "split": once(last=-1), "scale": once(five=5.0), "latent_steps": once(two=2),
    "link": once(half=0.5), "attack_ratio": once(one=1.0), "step_size": once(some=0.25),
    "include_self": once(no=False), "k": once(two=2, three=3),
}  # fmt: skip
WRONG_OPTIONS = {
    **dict.fromkeys(("tau_ratio", "alpha", "attack_step_size", "scale", "link", "attack_ratio",
                     "step_size"), NUMBER),
    **dict.fromkeys(("partners", "attack_steps", "attack_restarts", "latent_steps", "worst",
                     "universal", "k"), COUNT),
    **dict.fromkeys(("reduction", "method", "pairing"), WORD),
    "split": {**NONSENSE, **once(far=-9, none_before=0)}, "include_self": once(yes=True),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
@sizes(6, 120)
def test_losses(cases, name):
    known = inspect.signature(LOSSES[name]).parameters
    own = [key for key in OPTIONS if key in known]
    good = {"net": NET, "x": X, "y": Y, "eps": SCALARS, "max_eps": once(some=0.1),
            **{key: OPTIONS[key] for key in own}}  # fmt: skip
    bad = {"net": WRONG_NET, "x": WRONG_X, "y": WRONG_Y, "eps": {**WRONG_EPS},
           "max_eps": NUMBER, **{key: WRONG_OPTIONS[key] for key in own}}  # fmt: skip

    def check(case) -> None:
        torch.manual_seed(0)
        given = values(case, good, bad)
        batch = [given.pop(key) for key in ("net", "x", "y", "eps")]

        def run() -> None:
            terms = LOSSES[name](given.pop("max_eps"), **given)(*batch)
            terms.backward()
            assert isinstance(terms.item(), float)
            assert terms.margins is None or 0 <= float(terms.certified()) <= 1

        refused(run)

    explore(cases, check, arguments(good, bad))


# -- attacks ------------------------------------------------------------------------

GOOD_ATTACK = {
    "net": NET, "x": X, "y": Y, "eps": SCALARS, "steps": once(two=2), "restarts": once(two=2),
    "step_size": once(half=0.5), "clip": CLIP, "momentum": once(some=0.5),
    "overshoot": once(little=0.01), "beta": once(two=2.0), "batch_size": once(four=4),
    "u": {"one": lambda: torch.rand(1, *SHAPE) / 9, "three": lambda: torch.rand(3, *SHAPE) / 9},
}  # fmt: skip
BAD_ATTACK = {
    "net": WRONG_NET, "x": WRONG_X, "y": WRONG_Y, "eps": WRONG_EPS, "steps": COUNT,
    "restarts": COUNT, "step_size": NUMBER, "clip": WRONG_CLIP, "momentum": NUMBER,
    "overshoot": NUMBER, "beta": NUMBER, "batch_size": COUNT, "u": WRONG_X,
}  # fmt: skip


def _inside(v, eps, largest: float = 1.0) -> bool:
    """Whether |v| <= ε, up to rounding; of v = (x + v) - x that of x."""
    return bool((v.abs() <= torch.as_tensor(eps) * (1 + 1e-5) + 1e-6 * largest).all())


def pgd(g) -> None:
    v = PGD(g["steps"], g["step_size"], g["restarts"], g["clip"])(*_batch(g))
    x = g["x"]
    moved = clamp(x, g["clip"]) if g["clip"] is not None else x
    if torch.equal(moved, x):  # an input outside the range goes to its border first
        assert _inside(v, g["eps"], max(1.0, float(x.detach().abs().max())))


def group_attack(g) -> None:
    net, x, y, eps = _batch(g)
    names = ("steps", "restarts", "step_size", "clip", "momentum", "overshoot")
    attack = GroupAttack(**{name: g[name] for name in names})
    x, y = (t.unsqueeze(0) if isinstance(t, torch.Tensor) else t for t in (x, y))
    assert _inside(attack(net, x, y, eps).u, eps)


def sgd_uap(g) -> None:
    names = ("restarts", "step_size", "clip", "beta", "batch_size")
    attack = SgdUap(epochs=g["steps"], **{name: g[name] for name in names})
    result = attack(*_batch(g))
    assert _inside(result.u, g["eps"]) and 0 <= result.fooling_rate <= 1


def trial(g) -> None:
    result = try_uap(g["net"], g["x"], g["y"], g["u"], clip=g["clip"])
    assert len(result.moved) == len(g["x"]) and 0 <= result.fooling_rate <= 1


def _batch(g) -> tuple:
    return g["net"], g["x"], g["y"], g["eps"]


@pytest.mark.parametrize("attack", [pgd, group_attack, sgd_uap, trial])
@sizes(20, 120)
def test_attacks(cases, attack):
    def check(case) -> None:
        torch.manual_seed(0)
        given = values(case, GOOD_ATTACK, BAD_ATTACK)
        refused(lambda: attack(given))

    explore(cases, check, arguments(GOOD_ATTACK, BAD_ATTACK))


# -- boxes and bounds ---------------------------------------------------------------

GOOD_BOX = {
    "net": NET, "x": X, "v": {"shifts": lambda: 0.1 * torch.rand(N, *SHAPE)}, "y": Y,
    "radius": SCALARS, "clip": CLIP, "method": once(ibp="ibp", crown="crown", best="alpha-crown"),
    "pairing": once(shifts=Shifts, groups=Groups), "partners": once(two=2, three=3),
    "batch": once(six=N), "margins": {"some": lambda: torch.randn(4, 2)},
}  # fmt: skip
BAD_BOX = {
    "net": {name: WRONG_NET[name] for name in ("double",)}, "x": WRONG_X,
    "v": WRONG_X, "y": WRONG_Y, "radius": WRONG_EPS, "clip": WRONG_CLIP, "method": WORD,
    "pairing": once(indices=lambda *_: lambda *_: torch.full((N, 2), 99),
                    floats=lambda *_: lambda *_: torch.rand(N, 2),
                    nothing=lambda *_: lambda *_: None),
    "partners": COUNT, "batch": COUNT,
    "margins": {**{k: v for k, v in WRONG_X.items() if "shape" not in k},
                "flat": lambda: torch.rand(3)},
}  # fmt: skip


def around(g) -> None:
    box = Box.around(g["x"], g["radius"], g["clip"])
    ordered = (box.lower <= box.upper) | g["x"].isnan()
    assert bool(ordered.all()) and box.lower.shape == g["x"].shape


def cross_input(g) -> None:
    partners = g["pairing"](g["partners"])(g["batch"])
    box = cross_input_boxes(g["x"], g["v"], g["radius"], partners, g["clip"])
    assert len(box) == partners.numel()


def margins(g) -> None:
    net = g["net"] if isinstance(g["net"], BoundedNet) else BoundedNet(g["net"])
    box = Box(g["x"], Box.around(g["x"], g["radius"], None).upper)
    lower = net.eval().margins(box, g["y"], g["method"])
    with torch.no_grad():
        logits = net(torch.lerp(*(end.detach() for end in box), 0.3))
    y = g["y"].unsqueeze(1)
    others = logits.scatter(1, y, -INF).amax(1, keepdim=True)
    slack = 1e-4 * (1 + logits.abs().max())
    assert not bool((lower.amin(1, True) > logits.gather(1, y) - others + slack).any())
    assert len(net.preactivation_bounds(box)) == net.relus


def cross_entropy(g) -> None:
    assert robust_cross_entropy(g["margins"]).shape == g["margins"].shape[:1]


def regulariser(g) -> None:
    assert shi_regulariser(Box(g["x"], g["v"]), [Box(g["v"], g["x"])]).ndim == 0


@pytest.mark.parametrize("call", [around, cross_input, margins, cross_entropy, regulariser])
@sizes(25, 120)
def test_boxes_and_bounds(cases, call):
    def check(case) -> None:
        torch.manual_seed(0)
        given = values(case, GOOD_BOX, BAD_BOX)
        refused(lambda: call(given))

    explore(cases, check, arguments(GOOD_BOX, BAD_BOX))


MODELS = {
    "mlp": small_mlp, "conv": small_conv, "empty": nn.Sequential, "identity": nn.Identity,
    "flatten": nn.Flatten, "only a convolution": lambda: nn.Conv2d(2, 3, 3),
    "softmax": lambda: flat(nn.Softmax(dim=1)), "dropout": lambda: flat(nn.Dropout()),
    "nan": lambda: _spoilt(NAN), "inf": lambda: _spoilt(INF), "text": lambda: "mlp",
    "none": lambda: None, "function": lambda: torch.relu, "one class": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(50, 1)),
    "meta": lambda: flat(nn.ReLU()).to("meta"), "half": lambda: flat(nn.ReLU()).half(),
}  # fmt: skip


def _spoilt(value: float) -> nn.Module:
    model = small_mlp()
    with torch.no_grad():
        model[-1].weight[0, 0] = value
    return model


@sizes(40, 120)
def test_wrapping(cases):
    def check(case) -> None:
        model, x = case
        example = {**X, **WRONG_X}[x]()

        def run() -> None:
            net = BoundedNet(MODELS[model](), example)
            shi_initialise(net)
            certify(net, example, torch.zeros(len(example), dtype=torch.int64), 0.1)

        refused(run)

    explore(cases, check, st.tuples(st.sampled_from(sorted(MODELS)), st.sampled_from(
        sorted({**X, **WRONG_X}))))  # fmt: skip


def test_every_public_function_is_tried_here():
    text = Path(__file__).read_text("utf-8")
    results = {"Certificates", "CitrusError", "Evaluation", "History", "LossTerms", "Smoothed",
               "UapBounds", "UapResult"}  # fmt: skip
    losses = {kind for kind in citrus_lirpa.__all__
              if issubclass(type(getattr(citrus_lirpa, kind)), type)
              and issubclass(getattr(citrus_lirpa, kind), nn.Module)}  # fmt: skip
    elsewhere = {"fit", "smooth", "Smoothing"}  # by the command line, in cli/test_fuzz
    for name in set(citrus_lirpa.__all__) - results - losses - elsewhere:
        assert name in text, name
