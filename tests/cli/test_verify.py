"""``citrus-lirpa verify`` and ``supports``, in the words of the VNN-LIB 2.0 standard."""

import random
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from fuzzing import sizes
from torch import nn

from citrus_lirpa import __version__
from citrus_lirpa.bounds.box import Box
from citrus_lirpa.cli import main
from citrus_lirpa.cli.choices import CAPABILITIES
from citrus_lirpa.cli.solver import main as solver
from citrus_lirpa.formats.onnx import save_onnx
from citrus_lirpa.formats.onnx.flat import OPERATORS
from citrus_lirpa.formats.query_writer import uap_query
from citrus_lirpa.formats.vnnlib import property_text
from citrus_lirpa.verify.queries import capabilities

pytest.importorskip("vnnlib")
pytest.importorskip("onnxruntime")

QUERY = """(vnnlib-version <2.0>)
(declare-network N1
    (declare-input X float32 [1,2])
    (declare-output Y float32 [1,2])
)
(declare-network N2
    (equal-to N1)
    (declare-input U float32 [1,2])
    (declare-output V float32 [1,2])
)
(assert (and (>= X[0,0] 0.0) (<= X[0,0] 1.0)))
(assert (and (>= X[0,1] 0.25) (<= X[0,1] 0.25)))
(assert (== U[0,0] X[0,0]))
(assert (== U[0,1] (+ X[0,1] 0.5)))
(assert (or (>= V[0,0] (+ Y[0,0] {})) (<= V[0,1] -9.0)))
"""

#: What mutations put into queries.
WORDS = "( ) 0.5 -7 1e5 X[0,0] V[0,1] Y_0 <= > == and or - * [9] float16 real N2 equal-to ;".split()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a network y = (relu(x0 + x1), x0): V0 - Y0 is 0.5."""
    folder = tmp_path_factory.mktemp("verify")
    first, last = nn.Linear(2, 2), nn.Linear(2, 2)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
        first.bias.zero_()
        last.weight.copy_(torch.eye(2))
        last.bias.zero_()
    save_onnx(nn.Sequential(first, nn.ReLU(), last).eval(), (2,), folder / "net.onnx")
    (folder / "sat.vnnlib").write_text(QUERY.format("0.5"))
    (folder / "unsat.vnnlib").write_text(QUERY.format("0.6"))
    return folder


def answer(files, name, *options, network="N1={}/net.onnx", program=main):
    arguments = ["verify", str(files / name), *map(str, options)]
    if network:
        arguments += ["--network", network.format(files)]
    result = CliRunner().invoke(program, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_unsat_is_one_word(files):
    assert answer(files, "unsat.vnnlib", "--timeout", 60) == (0, "unsat\n", "")


def test_an_assignment_follows_sat(files):
    status, out, _ = answer(files, "sat.vnnlib")
    lines = out.splitlines()
    assert (status, lines[0]) == (0, "sat")
    names = {i: line for i, line in enumerate(lines) if " " in line}
    assert names == {
        1: "X float32 [1,2]", 4: "Y float32 [1,2]", 7: "U float32 [1,2]", 10: "V float32 [1,2]",
    }  # fmt: skip
    x, y, u, v = ([float(t) for t in lines[i + 1 : i + 3]] for i in names)
    assert u == [x[0], x[1] + 0.5] and x[1] == 0.25
    assert v[0] >= y[0] + 0.5


def test_assignments_as_files(files, tmp_path):
    status, out, _ = answer(files, "sat.vnnlib", "--serialise-assignments", tmp_path / "values")
    assert (status, out) == (0, "sat\n")
    assert {file.name for file in (tmp_path / "values").iterdir()} == {
        "X.pb", "Y.pb", "U.pb", "V.pb",
    }  # fmt: skip
    tensor = onnx.TensorProto.FromString((tmp_path / "values" / "U.pb").read_bytes())
    array = onnx.numpy_helper.to_array(tensor)
    assert (tensor.name, array.dtype, array.shape) == ("U", np.float32, (1, 2))


def test_what_is_beyond_is_unknown(files):
    (files / "product.vnnlib").write_text(QUERY.format("(* X[0,0] X[0,1])"))
    status, out, err = answer(files, "product.vnnlib")
    assert (status, out) == (0, "unknown\n")
    assert "multiplies variables" in err


@pytest.mark.parametrize(
    ("options", "network", "message"),
    [
        ((), "", "give --network N1=FILE.onnx"),
        ((), "N1", "'N1' is not of the form NAME=FILE.onnx"),
        ((), "N3={}/net.onnx", "--network N3=... names no network of the query: N1, N2"),
        ((), "N1={}/none.onnx", "none.onnx is not a file"),
        ((), "N1={}/sat.vnnlib", "is not an ONNX file"),
        (("--network", "N2=x.onnx"), "N1={}/net.onnx", "takes no file of its own"),
        (("--network", "N1=x.onnx"), "N1={}/net.onnx", "names a network twice"),
        (("--timeout", "nan"), "N1={}/net.onnx", "--timeout is nan; expected seconds"),
        (("--timeout", "-1"), "N1={}/net.onnx", "-1.0 is not in the range x>=0"),
    ],
)
def test_mistakes_are_one_line_on_stderr(files, options, network, message):
    status, out, err = answer(files, "sat.vnnlib", *options, network=network)
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_a_broken_query_is_refused(files):
    (files / "broken.vnnlib").write_text(QUERY.format("0.5")[:-9])
    status, out, err = answer(files, "broken.vnnlib")
    assert (status, out, len(err.splitlines())) == (2, "", 1)


@pytest.fixture(scope="module")
def queries(files):
    """A query of two networks, one of three tied copies, and one of VNN-LIB 1.0."""
    x = torch.tensor([[0.2, 0.4], [0.3, 0.1], [0.6, 0.5]])
    box = Box(x[0] - 0.1, x[0] + 0.1)
    return {
        "N1": QUERY.format("0.6"),
        "N0": uap_query(x, box, [0, 1, 0], 2, least=2, clip=None),
        "N": property_text(box, 0, 2),
    }


def mutated(text, generator):
    """Exchange words of one kind, or change, drop, double and insert any, or cut the end off."""
    words = re.findall(r"[()]|[^\s()]+", text)
    for _ in range(generator.randint(1, 3)):
        place, taken = generator.randrange(len(words)), generator.randint(0, 2)
        alike = [word for word in WORDS + words if kind(word) == kind(words[place])]
        if generator.random() < 0.7:
            words[place] = generator.choice(alike)
        else:
            words[place : place + taken] = generator.choices(WORDS + words, k=2 - taken)
    text = " ".join(words).replace("( ", "(")
    if generator.random() < 0.1:
        place = generator.randrange(len(text))
        text = text[:place] + generator.choice("(;<.-\0é9") + text[place + 1 :]
    return text[: generator.randrange(len(text))] if generator.random() < 0.05 else text


def kind(word):
    """A number, a variable, a comparison, a parenthesis, or another word."""
    patterns = (r"-?[0-9.]+(e\d+)?", r"[XYUV]\w*(\[.*\])?", r"[<>=]+", r"[()]", r".*")
    return next(pattern for pattern in patterns if re.fullmatch(pattern, word))


@sizes(60, 170)
@pytest.mark.parametrize("network", ["N1", "N0", "N"])
def test_mutated_queries_are_answered_or_refused(files, queries, network, cases):
    """A verdict, or one line and status 2: never a traceback, which ``answer`` raises."""
    generator, counts = random.Random(0), Counter()
    for _ in range(cases):
        text = mutated(queries[network], generator)
        (files / "mutated.vnnlib").write_text(text)
        options = ("mutated.vnnlib", "--timeout", 5)
        status, out, err = answer(files, *options, network=f"{network}={{}}/net.onnx")
        if status:
            assert (status, out, len(err.splitlines())) == (2, "", 1), (text, err)
        counts["refused" if status else out.split()[0]] += 1
    assert set(counts) <= {"refused", "sat", "unsat", "unknown", "timed-out"}
    assert counts["refused"] < cases


# -- supports -------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAPABILITIES)
def test_every_capability_has_an_answer(name):
    result = CliRunner().invoke(solver, ["supports", f"--{name}"])
    assert (result.exit_code, result.stdout.splitlines()) == (
        0, list(capabilities.CAPABILITIES[name]),
    )  # fmt: skip


def test_capabilities():
    assert list(CAPABILITIES) == list(capabilities.CAPABILITIES)
    assert set(capabilities.CAPABILITIES["onnx-operators"]) <= set(OPERATORS)
    result = CliRunner().invoke(solver, ["supports"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "give one of --onnx-opset-versions, " in result.stderr


def test_the_solver_has_a_name_and_a_version(files):
    for option, text in (("--name", "citrus-lirpa"), ("--version", __version__)):
        result = CliRunner().invoke(solver, [option])
        assert (result.exit_code, result.stdout) == (0, f"{text}\n")
    assert answer(files, "unsat.vnnlib", program=solver) == (0, "unsat\n", "")
    result = CliRunner().invoke(solver, ["train"])
    assert result.exit_code == 2 and "known: verify, supports" in result.stderr


# -- the conformance suite ------------------------------------------------------------


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """The cases of vnnlib-satisfactory that it does not skip for what ``supports`` says."""
    evaluator = pytest.importorskip("vnntest.core.evaluator")
    from vnntest.core import generator
    from vnntest.models.test_case import TestCase

    folder = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "CACHE_DIR", folder)
        patch.setattr(generator, "ARTIFACTS_DIR", folder)
        manifest = generator.generate_all_tests()
    cases = [TestCase.from_manifest_entry(e, folder / e["category"]) for e in manifest]
    said = {name: set(lines) for name, lines in capabilities.CAPABILITIES.items()}
    run, skipped = evaluator.partition_by_support(
        cases,
        said["onnx-operators"],
        said["multiple-network-theories"],
        said["hidden-node-theories"],
        said["multiple-input-output-theories"],
        said["arithmetic-complexity-theories"],
    )
    return run, skipped


def test_the_conformance_suite_passes(suite):
    from citrus_lirpa.formats.query_reader import read_query
    from citrus_lirpa.verify.queries.decide import decide

    run, _ = suite
    found = {
        case.id: decide(read_query(case.vnnlib_path), case.onnx_paths, 60).verdict for case in run
    }
    assert found == {case.id: case.expected.value for case in run}
    categories = {case.category for case in run}
    assert len(run) >= 120
    assert {"network_equal", "network_isomorphic", "multi_io", "arithmetic_lin"} <= categories


@pytest.mark.parametrize("check", ["opset", "vnnlib", "serialise-assignments"])
def test_the_compliance_checks_pass(tmp_path, check):
    compliance = pytest.importorskip("vnntest.core.compliance")
    program = tmp_path / "solver"
    program.write_text(f"#!{sys.executable}\nfrom citrus_lirpa.cli.solver import main\nmain()\n")
    program.chmod(0o755)
    name = {"opset": "opset_versions", "vnnlib": "vnnlib_versions"}.get(
        check, "serialise_assignments"
    )
    passed, message = getattr(compliance, f"check_{name}")(str(program), 60)
    assert passed, message


def test_help_needs_no_torch():
    code = "import sys; from citrus_lirpa.cli.solver import main; main(['--help'], standalone_mode=False); assert 'torch' not in sys.modules"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
