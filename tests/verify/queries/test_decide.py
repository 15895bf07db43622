"""Queries decided: against an exact method, against samples, and as answers are to look."""

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from exact import BENT_KINDS, KINDS, most_broken, random_images, random_net
from torch import nn

from citrus_lirpa.bounds.box import Box
from citrus_lirpa.errors import InputError
from citrus_lirpa.formats.onnx import save_onnx
from citrus_lirpa.formats.query_reader import read_query
from citrus_lirpa.formats.query_writer import image_query, uap_query
from citrus_lirpa.verify.queries.decide import decide

pytest.importorskip("vnnlib")
onnxruntime = pytest.importorskip("onnxruntime")


def ask(tmp_path: Path, text: str, timeout: float = 60.0, **models):
    """The answer to a query about modules, always the same by a name, with shapes of inputs."""
    file = tmp_path / "query.vnnlib"
    file.write_text(text)
    files = {}
    for name, (model, shape) in models.items():
        files[name] = tmp_path / f"{name}.onnx"
        if not files[name].exists():
            save_onnx(model, shape, files[name])
    return decide(read_query(file), files, timeout)


def holds(values, query, files) -> bool:
    """Whether an assignment is what onnxruntime computes, and satisfies the formula in floats."""
    for network in query.networks:
        session = onnxruntime.InferenceSession(str(files[network.equal_to or network.name]))
        feed = {
            value.name: np.array([float(v) for v in values[d.name]], np.float32).reshape(
                value.shape
            )
            for value, d in zip(session.get_inputs(), network.inputs, strict=True)
        }
        for d, y in zip(network.outputs, session.run(None, feed), strict=True):
            if [float(v) for v in values[d.name]] != y.ravel().tolist():
                return False
    return satisfied(query.formula, values)


def satisfied(formula, values) -> bool:
    if hasattr(formula, "parts"):
        every = type(formula).__name__ == "Every"
        return (all if every else any)(satisfied(part, values) for part in formula.parts)
    left = float(formula.left.value({k: list(map(Fraction, v)) for k, v in values.items()}))
    return {"<=": left <= 1e-6, "<": left < 0, "==": abs(left) <= 1e-6}[formula.relation]


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        *itertools.product(KINDS, (1, 3)),
        *((kind, 1) for kind in BENT_KINDS),
        *(pytest.param(kind, seed, marks=pytest.mark.nightly) for kind in KINDS for seed in (0, 2)),
    ],
)
def test_universal_queries_agree_with_an_exact_method(tmp_path, kind, seed):
    model, shape = random_net(kind, seed)
    eps = (0.05, 0.1, 0.2, 0.4)[seed]
    x, y = random_images(model, shape, seed, 3)
    exact = most_broken(model, x, y, eps)
    if exact is None:
        pytest.skip("the exact answer stands on a tie")
    box = Box(x[0].double() - eps, x[0].double() + eps)
    for m in (1, 2, 3):
        text = uap_query(x, box, y.tolist(), 3, least=m, clip=None)
        answer = ask(tmp_path, text, N0=(model, shape))
        assert answer.verdict == ("sat" if exact[0] >= 3 - m + 1 else "unsat")
        if answer.values is not None:
            query, files = read_query(tmp_path / "query.vnnlib"), {"N0": tmp_path / "N0.onnx"}
            assert holds(answer.values, query, files)
            first, second = (np.array(answer.values[f"X{i}"]) for i in (0, 1))
            apart = (x[1].double() - x[0].double()).flatten().numpy()
            np.testing.assert_allclose((second - first).astype(float), apart, atol=1e-12)


@pytest.mark.parametrize("kind", (*KINDS, *BENT_KINDS))
def test_single_images_agree_with_an_exact_method(tmp_path, kind):
    model, shape = random_net(kind, 7)
    x, y = random_images(model, shape, 7, 2 if kind in BENT_KINDS else 6)
    for image, label in zip(x, y.tolist(), strict=True):
        exact = most_broken(model, image[None], torch.tensor([label]), 0.15)
        text = image_query(Box(image - 0.15, image + 0.15), label, 3)
        verdict = ask(tmp_path, text, N=(model, shape)).verdict
        assert exact is None or verdict == ("sat" if exact[0] else "unsat")


@pytest.mark.parametrize("curve", [nn.Sigmoid, nn.Tanh, nn.SiLU])
def test_curves_of_many_inputs_are_decided_by_lines(tmp_path, curve):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 10), curve(), nn.Linear(10, 3)).eval()
    x = torch.rand(20)
    label = int(model(x[None]).argmax())
    for eps, verdict in ((0.01, "unsat"), (5.0, "sat")):
        text = image_query(Box(x - eps, x + eps), label, 3)
        assert ask(tmp_path, text, N=(model, (20,))).verdict == verdict


def random_query(generator: np.random.Generator, pixels: int) -> str:
    """Two networks, the second a copy; a tie or none; constraints of inputs and outputs."""
    number = lambda low, high: f"{generator.uniform(low, high):.3f}"  # noqa: E731
    atoms = []
    for _ in range(generator.integers(1, 6)):
        names = [f"{n}[0,{i}]" for n, size in (("X", pixels), ("U", pixels), ("Y", 3), ("V", 3))
                 for i in range(size)]  # fmt: skip
        chosen = generator.choice(names, size=generator.integers(1, 4), replace=False)
        terms = " ".join(f"(* {number(-2, 2)} {name})" for name in chosen)
        left = f"(+ {terms} {number(-1, 1)})"
        atoms.append(f"({generator.choice(['<=', '<', '>=', '>', '!='])} {left} {number(-2, 2)})")
    tie = [f"(assert (== U[0,{i}] (- X[0,{i}] {number(-0.5, 0.5)})))" for i in range(pixels)]
    bounds = [
        f"(assert (and (>= {n}[0,{i}] {number(-1, 0)}) (<= {n}[0,{i}] {number(0, 1)})))"
        for n in ("X", "U")
        for i in range(pixels)
    ]
    half = len(atoms) // 2
    formula = f"(and {' '.join(atoms[:half])} (or {' '.join(atoms[half:])}))"
    return "\n".join(
        [
            "(vnnlib-version <2.0>)",
            f"(declare-network A (declare-input X real [1,{pixels}]) "
            "(declare-output Y real [1,3]))",
            f"(declare-network B (equal-to A) (declare-input U real [1,{pixels}]) "
            "(declare-output V real [1,3]))",
            *(tie if generator.random() < 0.5 else []),
            *bounds,
            f"(assert {formula})",
        ]
    )


@pytest.mark.parametrize("seed", range(24))
def test_no_sample_contradicts_an_answer(tmp_path, seed):
    generator = np.random.default_rng(seed)
    model, shape = random_net("mlp", seed)
    text = random_query(generator, shape[0])
    answer = ask(tmp_path, text, timeout=20, A=(model, shape))
    query, files = read_query(tmp_path / "query.vnnlib"), {"A": tmp_path / "A.onnx"}
    if answer.values is not None:
        assert holds(answer.values, query, files)
    if answer.verdict == "unsat":
        from citrus_lirpa.verify.queries.judge import Judge
        from citrus_lirpa.verify.queries.networks import load_networks
        from citrus_lirpa.verify.queries.statement import statement_of

        statement = statement_of(query)
        if statement.formula is not None:
            judge = Judge(query, statement, load_networks(query, files))
            low, high = (np.array(end, float) for end in (statement.lower, statement.upper))
            for _ in range(300):
                share = generator.random(len(low)).round(generator.integers(0, 3))
                assert judge.assignment(low + share * (high - low)) is None


HEAD = """(vnnlib-version <2.0>)
(declare-network N (declare-input X float32 [1,1]) (declare-output Y float32 [1,2]))
(assert (>= X[0,0] 0.0)) (assert (<= X[0,0] 1.0))
"""


def identity() -> tuple[nn.Module, tuple[int, ...]]:
    """y = (relu(x), 1 - x)."""
    first, last = nn.Linear(1, 2), nn.Linear(2, 2)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        first.bias.copy_(torch.tensor([0.0, 1.0]))
        last.weight.copy_(torch.eye(2))
        last.bias.zero_()
    return nn.Sequential(first, nn.ReLU(), last).eval(), (1,)


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [
        ("(assert (>= Y[0,0] 1.0))", "sat"),
        ("(assert (> Y[0,0] 1.0))", "unknown"),  # too close to be proved
        ("(assert (> Y[0,0] 1.001))", "unsat"),
        ("(assert (< Y[0,0] 0.0))", "unknown"),
        ("(assert (and (>= Y[0,0] 0.6) (>= Y[0,1] 0.6)))", "unsat"),
        ("(assert (and (>= Y[0,0] 0.4) (>= Y[0,1] 0.4)))", "sat"),
        ("(assert (>= Y[0,0] (+ X[0,0] 0.1)))", "unsat"),
        ("(assert (== Y[0,0] 0.5))", "sat"),
        ("(assert (or (<= Y[0,0] -0.1) (>= Y[0,1] 1.1)))", "unsat"),
        ("(assert (<= X[0,0] -0.1))", "unsat"),
    ],
)
def test_strict_and_weak_inequalities(tmp_path, asked, verdict):
    assert ask(tmp_path, HEAD + asked, N=identity()).verdict == verdict


def test_affine_networks_are_decided_by_linear_programs(tmp_path):
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        model.bias.zero_()
    text = """(vnnlib-version <2.0>)
    (declare-network N (declare-input X float32 [1,2]) (declare-output Y float32 [1,2]))
    (assert (and (>= X[0,0] 0.0) (<= X[0,0] 1.0))) (assert (and (>= X[0,1] 0.0) (<= X[0,1] 1.0)))
    (assert (and (>= Y[0,0] {}) (>= Y[0,1] 0.5)))"""
    for least, verdict in (("1.6", "unsat"), ("1.4", "sat")):  # sum and difference: at most 1.5
        assert ask(tmp_path, text.format(least), N=(model, (2,))).verdict == verdict


def test_a_time_limit_ends_the_search(tmp_path):
    model, shape = random_net("deep", 0)
    x, y = random_images(model, shape, 0, 1)
    text = image_query(Box(x[0] - 0.2, x[0] + 0.2), int(y[0]), 3)
    assert ask(tmp_path, text, timeout=0.0, N=(model, shape)).verdict in ("timed-out", "sat")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({}, "give --network N=FILE.onnx"),
        ({"N": identity(), "M": identity()}, "M=... names no network"),
        ({"N": random_net("mlp", 1)}, "has 3 numbers"),
    ],
)
def test_files_that_do_not_fit(tmp_path, models, message):
    with pytest.raises(InputError, match=message):
        ask(tmp_path, f"{HEAD}(assert (<= Y[0,0] 1.0))", **models)


def test_nothing_asked_of_outputs(tmp_path):
    assert ask(tmp_path, HEAD, N=identity()).verdict == "sat"


def test_an_input_without_bounds_is_found_or_not(tmp_path):
    text = HEAD.replace("(assert (<= X[0,0] 1.0))", "")
    assert ask(tmp_path, f"{text}(assert (>= Y[0,0] 5.0))", N=identity()).verdict == "sat"
    answer = ask(tmp_path, f"{text}(assert (>= Y[0,0] 500.0))", N=identity())
    assert (answer.verdict, answer.reason) == (
        "unknown", "input X, number 0, has no bounds; state both",
    )  # fmt: skip
