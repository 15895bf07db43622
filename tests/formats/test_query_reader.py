"""VNN-LIB queries as they are written and read."""

import gzip
from fractions import Fraction

import pytest

from citrus_lirpa.errors import InputError
from citrus_lirpa.formats.query import Atom, Every, Linear, Some
from citrus_lirpa.formats.query_reader import NonLinearError, read_query

pytest.importorskip("vnnlib")

HEAD = """(vnnlib-version <2.0>)
(declare-network N
    (declare-input X float32 [1,2])
    (declare-output Y float32 [2])
)
"""


def read(tmp_path, text, name="query.vnnlib"):
    file = tmp_path / name
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return read_query(file)


def atom(relation, constant=0, **factors):
    """x0=2 is 2·X[0,0]."""
    terms = {(name[0].upper(), int(name[1])): Fraction(f) for name, f in factors.items()}
    return Atom(Linear(terms, Fraction(constant)), relation)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("(<= X[0,1] 0.1)", atom("<=", "-0.1", x1=1)),
        ("(>= X[0,1] -0.5)", atom("<=", "-0.5", x1=-1)),
        ("(< Y[0] Y[1])", atom("<", y0=1, y1=-1)),
        ("(> Y[0] Y[1])", atom("<", y0=-1, y1=1)),
        ("(== X[0,0] (+ X[0,1] 0.25))", atom("==", "-0.25", x0=1, x1=-1)),
        ("(<= (* 2.0 3.0 X[0,0]) 1.0)", atom("<=", -1, x0=6)),
        ("(<= (- X[0,0]) (- Y[0] Y[1] 2.0))", atom("<=", 2, x0=-1, y0=-1, y1=1)),
        ("(<= (+ X[0,0] (* -1.0 X[0,0])) 3.0)", atom("<=", -3)),
    ],
)
def test_comparisons(tmp_path, text, wanted):
    query = read(tmp_path, f"{HEAD}(assert {text})")
    assert query.formula == Every((wanted,))


def test_connectives_and_inequality(tmp_path):
    query = read(tmp_path, f"{HEAD}(assert (or (and (<= Y[0] 1.0) (<= Y[1] 1.0)) (!= Y[0] 2.0)))")
    both = Every((atom("<=", -1, y0=1), atom("<=", -1, y1=1)))
    apart = Some((atom("<", -2, y0=1), atom("<", 2, y0=-1)))
    assert query.formula == Every((Some((both, apart)),))


def test_networks(tmp_path):
    text = """(vnnlib-version <2.0>)
    (declare-network A (declare-input X real [2]) (declare-output Y real []))
    (declare-network B (equal-to A) (declare-input U real [2]) (declare-output V real []))
    (assert (<= Y V))"""
    first, second = read(tmp_path, text, "query.vnnlib.gz").networks
    assert (first.inputs[0].shape, first.inputs[0].size) == ((2,), 2)
    assert (first.outputs[0].shape, first.outputs[0].size) == ((), 1)
    assert (second.equal_to, second.inputs[0].dtype) == ("A", "real")


def test_isomorphic_networks_may_differ_in_their_types(tmp_path):
    text = """(vnnlib-version <2.0>)
    (declare-network A (declare-input X float32 [2]) (declare-output Y float32 [1]))
    (declare-network B ; quantised
        (isomorphic-to A) (declare-input U float16 [{size}]) (declare-output V float16 [1]))
    (assert (<= X[0] 1.0))"""
    network = read(tmp_path, text.format(size=2)).networks[1]
    assert (network.isomorphic_to, network.inputs[0].dtype) == ("A", "float16")
    with pytest.raises(InputError, match="isomorphic to 'A', which is no network before it"):
        read(tmp_path, text.format(size=3))


def test_version_1(tmp_path):
    text = """; a property
    (declare-const X_0 Real) (declare-const X_1 Real)
    (declare-const Y_0 Real)
    (declare-const Y_1 Real)
    (assert (<= X_0 1)) (assert (>= X_0 -1e-3))
    (assert (or (and (<= Y_0 Y_1)) (and (>= Y_0 .5) (= X_1 2))))"""
    query = read(tmp_path, text)
    assert [d.shape for d in query.declarations] == [(2,), (2,)]
    one, two, some = query.formula.parts
    assert (one, two) == (atom("<=", -1, x0=1), atom("<=", "-0.001", x0=-1))
    assert some.parts[1] == Every((atom("<=", "0.5", y0=-1), atom("==", -2, x1=1)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no VNN-LIB query"),
        ("hello", "no VNN-LIB query"),
        (f"{HEAD}(assert (<= X[0,2] 1.0))", "line 6"),
        (f"{HEAD}(assert (<= X[0,1] 1))", "line 6"),
        (f"{HEAD}(assert (<= Z[0] 1.0))", "line 6"),
        (f"{HEAD}(assert (<= X[0,1] 1.0)", "syntax error"),
        (f"{HEAD}(assert {'(and ' * 200}", "brackets in each other; at most 100"),
        ("(declare-const X_999999999 Real)(declare-const Y_0 Real)", "no VNN-LIB query"),
    ],
)
def test_what_is_no_query_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "query.vnnlib" in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="is not a file"):
        read_query(tmp_path / "none.vnnlib")
    (tmp_path / "broken.gz").write_bytes(gzip.compress(b"x" * 99)[:-9])
    (tmp_path / "binary.vnnlib").write_bytes(b"\xff\xfe\x00")
    for name in ("broken.gz", "binary.vnnlib"):
        with pytest.raises(InputError, match="cannot be read"):
            read_query(tmp_path / name)


def test_products_of_variables_are_beyond_linear_arithmetic(tmp_path):
    with pytest.raises(NonLinearError, match="multiplies variables"):
        read(tmp_path, f"{HEAD}(assert (<= (* X[0,0] X[0,1]) 1.0))")
