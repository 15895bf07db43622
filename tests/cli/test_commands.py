"""cli: help, one line for every mistake, and the demo from training to certificates."""

import json
import re
import shlex
import shutil
import signal
from pathlib import Path

import pytest
import torch
from command_line import after, is_png, process, run, said, sets

from citrus_lirpa import PGD, __version__, data
from citrus_lirpa.bounds import lirpa as _compat
from citrus_lirpa.cli import COMMANDS as TABLE
from citrus_lirpa.cli import main
from citrus_lirpa.errors import CheckpointError
from citrus_lirpa.training import checkpoint, config, trainer
from citrus_lirpa.verify import Saved

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(TABLE)


# -- help ---------------------------------------------------------------------------


def test_help_lists_every_method_and_preset():
    output = "".join(run("train", "--help")[1].split())  # names may be broken over lines
    assert f"Oneof:{','.join(config.methods())}." in output
    assert f"Oneof:{','.join(config.presets())}." in output


def test_help_and_version():
    status, output = run("--help")
    assert status == 0 and all(f"\n  {command} " in output for command in COMMANDS)
    assert run("--version") == (0, f"citrus-lirpa, version {__version__}\n")


def test_help_says_of_each_command_what_it_says_of_itself():
    for name, (_, line) in TABLE.items():
        own = main.get_command(None, name).get_short_help_str(200)
        assert own.startswith(line.rstrip(".")[:20]), name


# -- the demo -----------------------------------------------------------------------


def percent(output: str, row: str) -> float:
    (line,) = [line for line in output.splitlines() if line.startswith(f"{row} ")]
    return float(line[len(row) :].partition("%")[0])


def test_train(trained):
    folder, output = trained
    files = {"config.toml", "checkpoint.pt", "metrics.jsonl", "curves.png"}
    assert {path.name for path in folder.iterdir()} >= files
    assert is_png(folder / "curves.png")
    *_, last = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert last["epoch"] == 4 and f"epoch 4: ε 0.0300, loss {last['loss']:.3f}" in output
    assert f"training accuracy {100 * last['accuracy']:.2f} %" in output
    assert f"citrus-lirpa eval {folder}" in output


def test_train_begins_with_the_weights_of_another_run(trained, tmp_path, monkeypatch):
    """Whatever its name; the run itself remembers an absolute path."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained[0], 'µ "😀"')
    few = sets("train.epochs=1", "train.ramp_start=1", "train.lr=1e-12", "data.limit=128")
    status, output = run("train", "--preset", "digits", "--method", "ibp", *few, "--quiet",
                         "--init-from", 'µ "😀"', "--out", "new")  # fmt: skip
    assert status == 0, output
    settings, state = checkpoint.load(Path("new"))
    assert settings.train.init_from == str(tmp_path.resolve() / 'µ "😀"')
    weights = checkpoint.load(trained[0])[1]["model"]
    assert state["model"].keys() == weights.keys()
    assert all(torch.allclose(state["model"][k], w, atol=1e-9) for k, w in weights.items())


@pytest.mark.parametrize("relational", ["none", "cross"])
def test_eval_prints_what_it_writes(trained, tmp_path, rendered, relational):
    folder, _ = trained
    status, output = run("eval", folder / "checkpoint.pt", "--method", "crown", "--eps",
                         "16/255", "--limit", 59, "--group-size", 4, "--quiet",
                         "--relational", relational, "--time-limit", 2,
                         "--out", tmp_path)  # fmt: skip
    assert status == 0, output
    assert {path.name for path in tmp_path.iterdir()} == {
        "eval-crown.json", "stages-crown.png", "uap-crown.npz", "uap-crown.png"
    }  # fmt: skip
    record = json.loads((tmp_path / "eval-crown.json").read_text())
    settings = ("images", "eps", "group_size", "clip", "data", "method", "relational", "time_limit")
    expected = [59, 16 / 255, 4, None, "digits", "crown", relational, 2]
    assert [record[key] for key in settings] == expected
    certified, uap = record["certified_accuracy"], record["uap_accuracy"]
    shares = {
        "standard accuracy": record["standard_accuracy"],
        "certified by ibp": certified["ibp"],
        "certified by crown-ibp": certified["crown-ibp"],
        "certified by crown": certified["crown"],
        "UCert (certified average UAP accuracy)": uap["certified"],
        "UAP accuracy under attack": uap["attacked"],
    }
    for row, share in shares.items():
        assert percent(output, row) == pytest.approx(100 * share, abs=0.005)
    assert 0 < certified["ibp"] < certified["crown"]
    assert certified["ibp"] <= certified["crown-ibp"] <= certified["crown"]
    if relational == "none":
        assert certified["crown"] == uap["certified"]
    else:
        assert certified["crown"] < uap["certified"]
    assert uap["certified"] <= uap["attacked"] <= record["standard_accuracy"]
    groups = record["groups"]
    assert len(groups["safe_at_least"]) == len(groups["safe_at_most"]) == 15
    assert sum(groups["safe_at_least"]) == round(59 * uap["certified"])
    assert sum(groups["safe_at_most"]) == round(59 * uap["attacked"])
    gap = round(59 * (uap["attacked"] - uap["certified"]))
    assert f"upper bound; {gap} images between the two" in output
    verdicts = record["verdicts"]
    assert len(verdicts) == 59 and verdicts.count("ibp") == round(59 * certified["ibp"])
    assert verdicts.count("wrong") == round(59 * (1 - record["standard_accuracy"]))
    assert sum(record["shares"].values()) == 59
    for name in ("uap-crown.png", "stages-crown.png"):
        assert is_png(tmp_path / name) and str(tmp_path / name) in output


TIMES = ("seconds", "image_seconds")


def found(path: Path) -> dict:
    """The record of an evaluation without times and paths."""
    record = json.loads(path.read_text())
    record["groups"].pop("seconds")
    return {k: v for k, v in record.items() if k not in (*TIMES, "run")}


def test_eval_by_default(trained):
    """Branch and bound at the run's ε, into the run's folder, the same each time."""
    folder, _ = trained
    records = []
    for _ in range(2):
        torch.manual_seed(99)
        status, output = run("eval", folder, "--limit", 15, "--quiet")
        assert status == 0 and "15 test images, ε = 0.03, groups of 5, not clipped" in output
        assert "certified by bab" in output
        records.append(found(folder / "eval-bab.json"))
    assert records[0] == records[1]
    defaults = {"method": "bab", "relational": "cross", "time_limit": 10, "batch_size": 256}
    assert defaults.items() <= records[0].items()
    seconds = json.loads((folder / "eval-bab.json").read_text())["seconds"]
    assert list(seconds) == ["ibp", "crown-ibp", "attack", "crown", "alpha-crown", "bab",
                             "group attack", "group stage", "total"]  # fmt: skip
    assert not (folder / "eval-bab.partial").exists()


# -- evaluations that stop and go on ----------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


FEW = ("--method", "crown", "--limit", 15, "--batch-size", 5, "--eps", "8/255", "--quiet")


@pytest.fixture
def stored(monkeypatch) -> list[int]:
    """Numbers of the batches that are computed and stored."""
    store, numbers = Saved.store, []

    def noting(self, number, *args):
        numbers.append(number)
        store(self, number, *args)

    monkeypatch.setattr(Saved, "store", noting)
    return numbers


@pytest.fixture
def interrupted(trained, tmp_path, monkeypatch) -> Path:
    """A folder where an evaluation was interrupted after its first batch."""
    with monkeypatch.context() as patch:
        after(patch, Saved, "store", 1, signal.SIGINT)
        status, output = run("eval", trained[0], *FEW, "--out", tmp_path)
    assert status != 0
    line = said(status, output, status)
    assert "1 finished batch is kept" in line and "--resume" in line
    assert str(tmp_path / "eval-crown.partial") in line
    assert [path.name for path in tmp_path.iterdir()] == ["eval-crown.partial"]
    return tmp_path


def test_an_interrupted_evaluation_ends_as_an_uninterrupted_one(
    trained, interrupted, tmp_path_factory, stored
):
    whole = tmp_path_factory.mktemp("whole")
    assert run("eval", trained[0], *FEW, "--out", whole)[0] == 0
    stored.clear()
    status, output = run("eval", trained[0], *FEW, "--out", interrupted, "--resume")
    assert status == 0, output
    assert stored == [1, 2]
    assert found(interrupted / "eval-crown.json") == found(whole / "eval-crown.json")
    names = [sorted(path.name for path in folder.iterdir()) for folder in (whole, interrupted)]
    assert names[0] == names[1] and "eval-crown.json" in names[0]
    # an evaluation that is complete has nothing to resume, and is done again
    assert run("eval", trained[0], *FEW, "--out", interrupted, "--resume")[0] == 0
    assert stored == [1, 2, 0, 1, 2]


def test_what_other_settings_found_is_kept_aside(trained, interrupted):
    status, output = run("eval", trained[0], *FEW, "--seed", 1, "--out", interrupted)
    aside = interrupted / "earlier-1"
    assert status == 0 and f"earlier results, of other settings, are kept in {aside}" in output
    assert names(aside) == ["eval-crown.partial"]
    first = (interrupted / "eval-crown.json").read_bytes()
    status, output = run("eval", trained[0], *FEW, "--limit", 10, "--out", interrupted)
    aside = interrupted / "earlier-2"
    assert status == 0 and str(aside) in output
    assert (aside / "eval-crown.json").read_bytes() == first
    assert {"stages-crown.png", "uap-crown.npz"} <= set(names(aside))
    status, output = run("eval", trained[0], *FEW, "--limit", 10, "--out", interrupted)
    assert status == 0 and "earlier" not in output
    assert [name for name in names(interrupted) if "earlier" in name] == ["earlier-1", "earlier-2"]


def test_resume_names_the_settings_that_differ(trained, interrupted):
    line = said(*run("eval", trained[0], *FEW, "--time-limit", 7, "--out", interrupted,
                     "--resume"), 1)  # fmt: skip
    assert "(time_limit: " in line and "there, 7.0 here)" in line


def test_resume_of_another_network_is_refused(trained, interrupted, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "run"
    assert run("train", "--preset", "digits", "--quiet", "--out", other, *sets(
        "train.epochs=1", "train.ramp_start=1", "data.limit=128"))[0] == 0  # fmt: skip
    line = said(*run("eval", other, *FEW, "--out", interrupted, "--resume"), 1)
    assert "(other weights)" in line


def test_verdicts_on_test_images_are_not_taken_for_held_out_ones(tmp_path):
    run("train", "--preset", "digits", *sets("train.epochs=1", "data.held_out=20"), "--out",
        tmp_path / "run", "--quiet")  # fmt: skip
    args = ("--held-out", "--import-verdicts", tmp_path)
    line = said(*run("eval", tmp_path / "run", *args), 2)
    assert "are of test images" in line and "leave out --held-out" in line


def test_an_unusable_folder_is_refused_before_anything_is_computed(trained, monkeypatch):
    monkeypatch.setattr(PGD, "__call__", lambda *_, **__: pytest.fail("it began"))
    assert "/dev/null/x" in said(*run("eval", trained[0], *FEW, "--out", "/dev/null/x"), 1)


def test_results_are_printed_even_where_they_cannot_be_written(trained, tmp_path, monkeypatch):
    def full(path, text):
        raise CheckpointError(f"cannot write {path}: disk full")

    with monkeypatch.context() as patch:
        patch.setattr("citrus_lirpa.formats.atomic.write_text", full)
        status, output = run("eval", trained[0], *FEW, "--out", tmp_path)
    assert status == 1 and str(tmp_path / "eval-crown.json") in output.splitlines()[-1]
    assert "standard accuracy" in output  # and nothing has to be computed again
    assert len(list((tmp_path / "eval-crown.partial").glob("*.pt"))) == 3
    assert run("eval", trained[0], *FEW, "--out", tmp_path, "--resume")[0] == 0
    assert (tmp_path / "eval-crown.json").is_file()


# -- verdicts of another verifier -------------------------------------------------------


def test_verdicts_of_another_verifier_are_taken(trained, tmp_path):
    pytest.importorskip("onnx")
    few = ("--method", "ibp", "--relational", "none", "--limit", 20, "--quiet")
    assert run("eval", trained[0], *few, "--eps", "16/255", "--out", tmp_path)[0] == 0
    before = found(tmp_path / "eval-ibp.json")
    undecided = [i for i, v in enumerate(before["verdicts"]) if v == "undecided"]
    assert len(undecided) >= 4
    status, output = run("export", trained[0], "--eps", "16/255", "--out", tmp_path / "x",
                         "--undecided", tmp_path / "eval-ibp.json")  # fmt: skip
    assert status == 0 and f"{len(undecided)} properties" in output
    first, second, third, *_ = undecided
    rows = [("unsat", first), ("sat", second), ("timeout", third)]
    text = "".join(f"model.onnx,image_{i:05d}.vnnlib,{word},1.5\n" for word, i in rows)
    (tmp_path / "x" / "results.csv").write_text(text)

    taking = (*few, "--import-verdicts", tmp_path / "x", "--out", tmp_path)
    status, output = run("eval", trained[0], *taking, "--eps", "16/255")
    assert status == 0, output
    assert f"imported from {tmp_path / 'x'}: 1 attacked, 1 certified, 1 undecided" in output
    after = found(tmp_path / "eval-ibp.json")
    expected = list(before["verdicts"])
    expected[first], expected[second] = "imported", "attacked"
    assert after["verdicts"] == expected
    assert after["shares"]["imported"] == 1 and sum(after["shares"].values()) == 20
    gained = after["certified_accuracy"]["imported"] - before["certified_accuracy"]["ibp"]
    assert gained == pytest.approx(1 / 20)
    assert percent(output, "certified by imported") == pytest.approx(
        100 * after["certified_accuracy"]["imported"], abs=0.005
    )
    # of another radius, or of a network that says something else, they are not
    line = said(*run("eval", trained[0], *taking, "--eps", "15/255"), 2)
    assert "--eps" in line and "export.json" in line
    (tmp_path / "x" / "results.csv").write_text("model.onnx,image_99999.vnnlib,unsat,1\n")
    assert "image_99999" in said(*run("eval", trained[0], *taking, "--eps", "16/255"), 2)


def test_a_verdict_that_the_attack_refutes_stops_the_evaluation(trained, tmp_path):
    pytest.importorskip("onnx")
    few = ("--method", "ibp", "--relational", "none", "--limit", 20, "--quiet", "--eps", "0.3")
    assert run("eval", trained[0], *few, "--out", tmp_path)[0] == 0
    broken = found(tmp_path / "eval-ibp.json")["verdicts"].index("attacked")
    export = ("--images", broken, "--eps", "0.3", "--out", tmp_path / "x")
    assert run("export", trained[0], *export)[0] == 0
    (tmp_path / "x" / "results.csv").write_text(f"{broken},unsat\n")
    taking = ("--import-verdicts", tmp_path / "x", "--out", tmp_path)
    line = said(*run("eval", trained[0], *few, *taking), 1)
    assert "imported verdicts" in line and f"number {broken} of" in line


# -- mistakes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["--preset", "digits", "--mode", "huge"], 2, ["'huge'", "'paper'"]),
        (["--method", "sabr"], 2, ["preset", "configuration file"]),
        (["--preset", "digits", "--init-from", "."], 1, ["checkpoint.pt", "run folder"]),
        (["--preset", "digits", "--device", "tpu"], 2, ["'tpu'", "cuda (a GPU)"]),
        (["--preset", "digits", "--precision", "fp8"], 2, ["'fp8'", "'bfloat16'"]),
        (["--preset", "digits", "--precision", "tf32", "--device", "cpu"], 2, ["GPU", "bfloat16"]),
        (["--preset", "digits", "--device", "xla"], 2, ["'xla'", "--device cpu"]),
        (["--preset", "digits", *sets("data.crop=9")], 2, ["crop 9", "8 pixels"]),
        (["--preset", "mnist-0.1", "--no-download", "--data-dir", "none"], 1,
         ["mnist", "none", "--data-dir"]),
        (["--config", "none.toml"], 2, ["none.toml", "No such file"]),
        (["--preset", "digits", "--config", "none.toml"], 2, ["either"]),
        ([], 2, ["preset", "configuration file"]),
        (["--preset", "digits", "--epochs", "3"], 2, ["--epochs"]),
    ],
    ids=lambda value: "_".join(value)[-30:] if isinstance(value, list) else None,
)  # fmt: skip
def test_train_refuses(tmp_path, monkeypatch, args, status, words):
    monkeypatch.chdir(tmp_path)
    line = said(*run("train", *args), status)
    assert all(word in line for word in words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--mode", "paper", *sets("train.batch_size=7")], ["7", "multiple of 5"]),
        (["--mode", "paper", *sets("train.batch_size=3")], ["batch of 3", "smaller group"]),
        (sets("train.batch_size=4"), ["got 4", "larger batch"]),
        (sets("train.batch_size=1398"), ["1398", "1397"]),
        (sets("train.seed=99999999999999999999"), ["99999999999999999999"]),
        (["--method", "taps", *sets("loss.split=9")], ["split is 9", "2 ReLUs"]),
    ],
    ids=lambda value: value[-1],
)
def test_train_refuses_before_it_makes_a_folder(tmp_path, args, words):
    folder = tmp_path / "run"
    few = sets("train.epochs=1", "train.ramp_start=1")
    status, output = run("train", "--preset", "digits", "--quiet", "--out", folder, *few, *args)
    line = said(status, output, 2)
    assert all(word in line for word in words)
    assert not folder.exists()  # the corrected command can use it


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["--eps", "-1"], 2, ["-1", ">= 0"]),
        (["--eps", "abc"], 2, ["'abc'", "8/255"]),
        (["--eps", "nan"], 2, ["nan", "finite"]),
        (["--group-size", "1"], 2, ["is 1", "expected 2 to 10"]),
        (["--limit", "0"], 2, ["limit is 0", "at least 2"]),
        (["--batch-size", "0"], 2, ["batch size is 0", "at least 1"]),
        (["--method", "crwn"], 2, ["'crwn'", "'crown'"]),
        (["--relational", "crss"], 2, ["'crss'", "'cross'"]),
        (["--time-limit", "-1"], 2, ["-1", "x>=0"]),
        (["--import-verdicts", "none"], 2, ["none", "export.json"]),
        (["--device", "tpu"], 2, ["'tpu'", "cuda (a GPU)"]),
        (["--seed", "99999999999999999999"], 2, ["99999999999999999999"]),
    ],
    ids=lambda value: "=".join(value) if isinstance(value, list) else None,
)
def test_eval_refuses(trained, tmp_path, args, status, words):
    common = ("--limit", "10", "--quiet", "--out", tmp_path / "out")
    line = said(*run("eval", trained[0], *common, *args), status)
    assert all(word in line for word in words)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_before_the_first_step_says_what_there_is(tmp_path, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    folder = tmp_path / "a run"
    few = ("--preset", "digits", *sets("train.epochs=1", "train.ramp_length=0", "data.limit=128"))
    with monkeypatch.context() as patch:
        patch.setattr(data, "load", stop)
        line = said(*run("train", *few, "--out", folder), 130)
    assert line == "Error: interrupted before the training began; nothing was written"
    assert not folder.exists()
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_step", stop)
        line = said(*run("train", *few, "--out", folder), 130)
    assert line == f"Error: interrupted; continue with: citrus-lirpa train --resume '{folder}'"
    assert run("train", "--resume", folder)[0] == 0


def test_what_is_in_the_way_is_a_refusal(trained, tmp_path):
    line = said(*run("train", "--preset", "digits", "--out", trained[0]), 2)
    assert "exists and is not empty" in line
    line = said(*run("train", "--preset", "digits", *sets("loss.tau_ratio=1.5")), 2)
    assert "[loss] tau_ratio is 1.5" in line


def test_a_finished_training_has_nothing_left(trained):
    before = (trained[0] / checkpoint.FILE_NAME).read_bytes()
    status, output = run("train", "--resume", trained[0], "--quiet")
    assert status == 0 and "nothing was left to train\nepoch 4:" in output
    assert (trained[0] / checkpoint.FILE_NAME).read_bytes() == before
    assert "nothing was left" not in trained[1]


def test_the_next_command_can_be_pasted(tmp_path):
    few = sets("train.epochs=1", "train.ramp_length=0", "data.limit=128")
    folder = tmp_path / "a b"
    status, output = run("train", "--preset", "digits", *few, "--quiet", "--out", folder)
    (command,) = re.findall("certify it with: citrus-lirpa (.*)", output)
    assert status == 0 and shlex.split(command)[1] == str(folder)
    status, output = run(*shlex.split(command), "--limit", 5, "--quiet")
    (command,) = re.findall("as a page: citrus-lirpa (.*)", output)
    assert status == 0 and shlex.split(command) == ["report", str(folder)]


@pytest.mark.parametrize("name", ["x.onnx", "x.PT2", "x.safetensors", "zoo:mine"])
def test_a_run_is_not_called_what_means_something_else(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    line = said(*run("train", "--preset", "digits", "--out", name), 2)
    assert f"--out {name} is a name for a network" in line and list(tmp_path.iterdir()) == []


def test_resume_refuses(trained, tmp_path):
    folder, _ = trained
    for more in (["--preset", "digits"], sets("train.epochs=9"), ["--mode", "paper"],
                 ["--out", tmp_path / "x"], ["--config", "x.toml"], ["--method", "ibp"],
                 ["--init-from", folder], ["--precision", "float32"],
                 ["--no-compile"]):  # fmt: skip
        assert "--resume" in said(*run("train", "--resume", folder, *more), 2)
    for path in (tmp_path, tmp_path / "none"):
        line = said(*run("train", "--resume", path), 1)
        assert str(path) in line and "config.toml" in line


# -- whole processes ----------------------------------------------------------------


WITHOUT = """
import json, sys
sys.modules["auto_LiRPA"] = None
from click.testing import CliRunner

from citrus_lirpa.cli import main
results = [CliRunner().invoke(main, args) for args in json.loads(sys.argv[1])]
json.dump([[r.exit_code, r.output] for r in results], sys.stdout)
"""


def test_without_auto_lirpa(trained, tmp_path):
    out = str(tmp_path / "run")
    needing = [["train", "--preset", "digits", "--out", out], ["doctor"]]
    needing += [[command, str(trained[0])] for command in ("eval", "attack")]
    needing += [["export", str(trained[0]), "--out", out], ["sweep", "none.toml"]]
    needing += [["tune", "none.toml"], ["suggest", "--data", "digits", "--out", out]]
    helping = [["--help"], *([command, "--help"] for command in COMMANDS)]
    done = process("-c", WITHOUT, json.dumps(needing + helping))
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads(done.stdout)
    bound_nothing = {"compare", "report", "front", "presets", "models", "completion", "smooth",
                     "verify", "supports", "check", "config"}  # fmt: skip
    assert {args[0] for args in needing} == set(COMMANDS) - bound_nothing
    expected = [1, f"Error: auto_LiRPA is not installed: {_compat.INSTALL_HINT}\n"]
    assert results[: len(needing)] == [expected] * len(needing)
    assert all(status == 0 and "Usage: " in text for status, text in results[len(needing) :])
    assert not Path(out).exists()
