"""benchmarks/kill.py: killed at random moments and started again, the commands come to the same.

``product/test_faults.py`` kills a training and an evaluation once each, every time.
"""

import signal
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kill.py reads /proc")


@pytest.fixture
def kill(script):
    return script("kill")


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("name", ["train", "eval", "sweep"])
def test_thirty_kills(tmp_path, kill, name, number):
    tally = kill.bench(name, tmp_path, kills=30, number=number, seed=2, epochs=100)
    assert tally.kills == 30 and tally.statuses <= {0, -number}


def test_what_differs_is_found(tmp_path, kill):
    """The bench can fail: a lost batch, a half-written file, another result, something left."""
    work = kill.Work(list, kill.saved_evaluation, lambda folder: kill.figures(folder, "*.json"))
    with pytest.raises(kill.Difference, match="lost what was saved"):
        kill.check_disk(work, tmp_path, {"batches": 1})
    (tmp_path / "eval-ibp.json").write_text('{"shares": 1, "seconds": 3}')
    kill.check_end(tmp_path, work, {"eval-ibp.json": {"shares": 1}})
    with pytest.raises(kill.Difference, match="another result"):
        kill.check_end(tmp_path, work, {"eval-ibp.json": {"shares": 2}})
    (tmp_path / ".eval-ibp.json.1.tmp").touch()
    with pytest.raises(kill.Difference, match="left behind"):
        kill.check_end(tmp_path, work, {"eval-ibp.json": {"shares": 1}})
    (tmp_path / "eval-ibp.json").write_text('{"shares"')
    with pytest.raises(kill.Difference, match="damaged after a kill"):
        kill.check_disk(work, tmp_path, {})
