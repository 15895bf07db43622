"""How benchmarks/solvers.py puts queries to two solvers, and counts their answers."""

import json
import sys

import pytest
from click.testing import CliRunner

#: Answers by the number of the query, and checks what it is given.
SOLVER = """
import pathlib, sys
verify, query, network, file, timeout, seconds = sys.argv[2:]
assert (verify, network, timeout, seconds) == ("verify", "--network", "--timeout", "7")
assert file.startswith("Net=") and pathlib.Path(file[4:]).is_file()
print(sys.argv[1].split(",")[int(pathlib.Path(query).stem)])
"""


@pytest.fixture
def solvers(script):
    return script("solvers")


def test_answers_are_counted_and_kept(tmp_path, solvers):
    (tmp_path / "solver.py").write_text(SOLVER)
    (tmp_path / "model.onnx").touch()
    for i in range(4):
        (tmp_path / f"{i}.vnnlib").write_text("(declare-network Net ...")
    rows = "".join(f"model.onnx,{i}.vnnlib,100\n" for i in range(4))
    (tmp_path / "instances.csv").write_text(rows)
    names = [
        f"{sys.executable} {tmp_path}/solver.py {said}"
        for said in ("sat,unsat,unknown,sat", "sat,unsat,unsat,unsat")
    ]
    kept = tmp_path / "kept.json"
    arguments = [str(tmp_path), *names, "--seconds", "7", "--json", str(kept)]
    first = CliRunner().invoke(solvers.main, arguments, catch_exceptions=False)
    assert "4 queries, both settle 3, 1 contradictions" in first.output
    assert "{'sat': 1, 'unsat': 3}" in first.output
    found = json.loads(kept.read_text())
    assert [found[f"{i}.vnnlib"][names[0]][0] for i in range(4)] == "sat unsat unknown sat".split()
    (tmp_path / "solver.py").unlink()
    second = CliRunner().invoke(solvers.main, arguments, catch_exceptions=False)
    assert second.output.splitlines()[-4:] == first.output.splitlines()[-4:]
