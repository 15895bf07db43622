"""sweep: what a file means, what is left to do in a folder, and whole sweeps with faults."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from command_line import run as command
from command_line import signalled, wait_for
from configurations import SMALL_SWEEP
from results import made_up_record

from citrus_lirpa.bounds.box import PIXELS
from citrus_lirpa.cli.actions import sweep as sweep_action
from citrus_lirpa.errors import CheckpointError, ConfigError, InputError, Interrupted
from citrus_lirpa.runs import sweep
from citrus_lirpa.runs import sweep_plan as workplan
from citrus_lirpa.runs.folder import RunFolder
from citrus_lirpa.runs.jobs import Job, Step, places
from citrus_lirpa.runs.jobs import run_jobs as run_all
from citrus_lirpa.runs.networks import FORMATS
from citrus_lirpa.training import checkpoint
from citrus_lirpa.training.config import resolve
from citrus_lirpa.training.toml import parse_override
from citrus_lirpa.verify import Protocol, fingerprint


def written(folder: Path, text: str) -> Path:
    path = folder / "group.toml"
    path.write_text(text, encoding="utf-8")
    return path


def expanded(folder: Path, text: str) -> list[sweep.Run]:
    return sweep.expand(sweep.read(written(folder, text)))


# -- from the file to the runs --------------------------------------------------------

GROUP = """
preset = "digits"
[set]
"train.epochs" = 5
"loss.attack_steps" = 3
[grid]
"train.seed" = [0, 1]
method = ["citrus", "ibp"]
"loss.tau_ratio" = [0.3, 0.5]
"""


def test_every_combination_once_and_options_where_they_are_known(tmp_path):
    found = [(run.name, run.config) for run in expanded(tmp_path, GROUP)]
    short = ["train.epochs=5", "loss.attack_steps=3"]

    def citrus(seed: int, tau: float):
        own = [f"train.seed={seed}", f"loss.tau_ratio={tau}"]
        return resolve(preset="digits", overrides=[*short, *own])

    def ibp(seed: int):
        own = ["train.epochs=5", "loss.name=ibp", f"train.seed={seed}"]
        return resolve(preset="digits", overrides=own)

    assert found == [  # in the order of the file
        ("digits-citrus-seed0-tau_ratio0.3", citrus(0, 0.3)),
        ("digits-citrus-seed0-tau_ratio0.5", citrus(0, 0.5)),
        ("digits-ibp-seed0", ibp(0)),
        ("digits-citrus-seed1-tau_ratio0.3", citrus(1, 0.3)),
        ("digits-citrus-seed1-tau_ratio0.5", citrus(1, 0.5)),
        ("digits-ibp-seed1", ibp(1)),
    ]


def test_names_do_not_depend_on_the_order_or_on_other_values(tmp_path):
    again = """
    [grid]
    "loss.tau_ratio" = [0.5]
    "train.seed" = [1]
    method = ["citrus"]
    preset = ["mnist-0.1", "digits"]
    """
    assert [run.name for run in expanded(tmp_path, again)] == [
        "mnist-0.1-citrus-seed1-tau_ratio0.5", "digits-citrus-seed1-tau_ratio0.5"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("grid", "names"),
    [
        ('"train.eps" = ["8/255", 0.1]', ["digits-eps8_255", "digits-eps0.1"]),
        ('"model.hidden" = [[8], [16, 16]]', ["digits-hidden8", "digits-hidden16_16"]),
        ('"train.precise_bn" = [true, false]', ["digits-precise_bntrue", "digits-precise_bnfalse"]),
        ('"model.name" = ["mlp"]', ["digits-mlp"]),
        ('"loss.name" = ["citrus", "ibp"]', ["digits-citrus", "digits-ibp"]),
        ("train.seed = [3]", ["digits-seed3"]),  # TOML nests it where the quotes are missing
        ("", ["digits"]),
    ],
)
def test_names(tmp_path, grid, names):
    found = expanded(tmp_path, f'preset = "digits"\n[grid]\n{grid}')
    assert [run.name for run in found] == names


def test_several_grids_are_run_one_after_the_other(tmp_path):
    text = """
    preset = "digits"
    [[grid]]
    "loss.reduction" = ["sum", "max"]
    [[grid]]
    method = ["citrus", "ibp"]
    "loss.worst" = [1, 2]
    """
    assert [run.name for run in expanded(tmp_path, text)] == [
        "digits-reductionsum", "digits-reductionmax",
        "digits-citrus-worst1", "digits-citrus-worst2", "digits-ibp",
    ]  # fmt: skip


def test_long_names_are_cut_and_stay_unique(tmp_path):
    layers = [[8] * n for n in (60, 70, 80)]
    found = expanded(tmp_path, f'preset = "digits"\n[grid]\n"model.hidden" = {layers}')
    names = [run.name for run in found]
    assert len(set(names)) == 3 and max(map(len, names)) < 140
    assert all(re.fullmatch(r"digits-hidden[8_]+-[0-9a-f]{8}", name) for name in names)


def test_values_that_a_file_name_cannot_tell_apart_get_a_digest(tmp_path):
    text = 'preset = "digits"\n[grid]\n"train.milestones" = [[3, 4], ["3/4"], [5]]'
    *same, other = (run.name for run in expanded(tmp_path, text))
    assert all(re.fullmatch(r"digits-milestones3_4-[0-9a-f]{8}", name) for name in same)
    assert len(set(same)) == 2 and other == "digits-milestones5"


def test_the_example_of_the_documentation(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "howto" / "sweeps.md").read_text("utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    names = [run.name for run in expanded(tmp_path, text)]
    assert len(names) == 6 and "makes six runs" in page
    assert f"`{names[0]}`" in page
    status, output = run(tmp_path / "group.toml", "--dry-run")
    assert status == 0 and "--time-limit=5" in output


def test_equal_configurations_are_run_once(tmp_path):
    text = 'preset = "digits"\n[grid]\n"train.eps" = [0.1, "1/10", 0.1]\n"train.seed" = [0, 0]'
    assert [run.name for run in expanded(tmp_path, text)] == ["digits-eps0.1-seed0"]


@pytest.mark.parametrize(
    "value", ["a b", "1", "true", '"', "8/255", 0.1, 1e-7, [1, 2], True, ["x"]]
)
def test_values_survive_the_command_line(value):
    one = sweep.Run("one", {"preset": "digits", "a.b": value}, resolve(preset="digits"))
    *_, option, text = one.arguments()
    assert option == "--set" and parse_override(text) == ("a.b", value)


def test_arguments_of_the_evaluation(tmp_path):
    text = 'preset = "digits"\n[eval]\nlimit = 9\n"time-limit" = 5\nclip = true\neps = "8/255"'
    text += '\n"held-out" = false'
    expected = ["--limit=9", "--time-limit=5", "--clip", "--eps=8/255"]
    assert sweep.read(written(tmp_path, text)).eval_arguments() == expected
    status, output = run(tmp_path / "group.toml", "--dry-run")
    assert status == 0 and f" {' '.join(expected)} --data-dir" in output


# -- mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("preset = ", ["not valid TOML", "group.toml"]),
        ("", ["preset is missing", "preset ="]),
        ('preset = "digts"', ["'digts'", "'digits'"]),
        ('preset = ["digits"]', ["['digits']", "[grid]"]),
        ('preset = "digits"\nsett = 1', ["'sett'", "'set'"]),
        ('preset = "digits"\n[set]\nmethod = "ibp"', ["method", "above all tables"]),
        ('preset = "digits"\n[set]\nseed = 1', ["'seed' in [set]", "TABLE.KEY"]),
        ('preset = "digits"\n[set]\n"train.seed" = 2020-01-01', ["train.seed", "a number"]),
        ("[[grid]]\npreset = ['digits']\n[[grid]]\n'train.seed' = [1]", ["preset is missing"]),
        ('preset = "digits"\ngrid = [1]', ["'grid' is not a table"]),
        ('preset = "digits"\n[grid]\nseed = [1]', ["'seed' in [grid]", "TABLE.KEY"]),
        ('preset = "digits"\n[grid]\n"train.seed" = []', ["train.seed", "[]", "list of values"]),
        ('preset = "digits"\n[grid]\n"train.seed" = 1', ["train.seed", "is 1", "list of values"]),
        ('preset = "digits"\n[grid]\npreset = ["digits"]', ["preset", "remove one"]),
        ('preset = "digits"\n[set]\n"train.lr" = 1\n[grid]\n"train.lr" = [1]', ["train.lr", "one"]),
        ('preset = "digits"\n[grid]\n"tran.seed" = [1]', ["'tran'", "'train'"]),
        ('preset = "digits"\nmethod = "ibp"\n[set]\n"loss.tau_ratio" = 1', ["'tau_ratio'", "loss"]),
        ('preset = "digits"\n[grid]\nmethod = ["citrus", "citris"]', ["'citris'", "'citrus'"]),
        ('preset = "digits"\n[grid]\n"train.eps" = [0.1, 7]', ["digits-eps7", "7", "8/255"]),
        ('preset = "digits"\n[grid]\n"loss.tau_ratio" = [0.1, 2.5]', ["tau_ratio2.5", "(0, 1]"]),
        ('preset = "digits"\n[eval]\n"time-limt" = 1', ["'time-limt'", "'time-limit'"]),
        ('preset = "digits"\n[eval]\nlimit = [1, 2]', ["limit", "[1, 2]", "one value"]),
    ],
)
def test_a_mistake_is_named(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        expanded(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def run(*args) -> tuple[int, str]:
    return command("sweep", *args)


@pytest.mark.parametrize(
    ("text", "args", "words"),
    [
        ("[eval]\nmethod = 'crwn'", [], ["[eval]", "'crwn'", "'crown'"]),
        ("[eval]\nlimit = 'ten'", [], ["[eval]", "'ten'"]),
        ("[eval]\n'group-size' = 11\nlimit = 10", [], ["is 11", "2 to 10"]),
        ("[set]\n'model.name' = 'convsmall'", [], ["8x8", "mlp"]),
        ("[grid]\n'train.batch_size' = [64, 2000]", [], ["2000", "1397"]),
        ("[set]\n'data.name' = 'mnist'", ["--no-download", "--data-dir", "none"], ["none"]),
        ("", ["--device", "tpu"], ["'tpu'"]),
    ],
)
def test_nothing_starts_where_a_run_could_not(tmp_path, text, args, words):
    file = written(tmp_path, f"preset = 'digits'\n{text}")
    status, output = run(file, "--out", tmp_path / "out", *args)
    (line,) = output.splitlines()
    assert status in (1, 2) and line.startswith("Error: ")
    assert all(word in line for word in words), line
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_is_not_there(tmp_path):
    status, output = run(tmp_path / "none.toml")
    assert status == 2 and "none.toml" in output


def test_a_dry_run_writes_nothing(tmp_path):
    file = written(tmp_path, GROUP)
    status, output = run(file, "--out", tmp_path / "out", "--dry-run")
    assert status == 0
    lines = output.splitlines()
    assert lines[0] == "[1/6] digits-citrus-seed0-tau_ratio0.3" and len(lines) == 18
    assert sum(line.startswith("  citrus-lirpa train --preset digits") for line in lines) == 6
    assert sum(line.startswith("  citrus-lirpa eval ") for line in lines) == 6
    assert list(tmp_path.iterdir()) == [file]


# -- what a folder says ---------------------------------------------------------------


@pytest.fixture
def work(tmp_path) -> workplan.Work:
    one = expanded(tmp_path, 'preset = "digits"\n[set]\n"train.epochs" = 2')[0]
    return workplan.Work(
        one,
        tmp_path / one.name,
        Protocol(eps=0.1, method="ibp", limit=10, clip=PIXELS),
        eval_arguments=("--method=ibp",),
        shared=("--device", "cpu"),
        source=workplan.Source(tmp_path, False),
    )


def begin(work: workplan.Work, finished: bool | None) -> None:
    """The folder of a run that was begun; with a checkpoint unless ``finished`` is None."""
    RunFolder(work.folder).begin(work.run.config)
    if finished is not None:
        save(work, finished)
    if finished:
        RunFolder(work.folder).curves.touch()


def save(work: workplan.Work, finished: bool) -> None:
    """A checkpoint with new weights."""
    model, _ = checkpoint.make_model(work.run.config)
    state = {"model": model.state_dict(), "finished": finished}
    checkpoint.save(work.folder / checkpoint.FILE_NAME, work.run.config, state)


def due(work: workplan.Work) -> list[str]:
    """The arguments of the pending commands."""
    return [" ".join(step.command[len(workplan.PROGRAM) :]) for step in work.pending()]


def weights(work: workplan.Work) -> str:
    """The fingerprint of the run's network, of no network where nothing is trained."""
    trained = (work.folder / checkpoint.FILE_NAME).is_file()
    return fingerprint(checkpoint.load_model(work.folder)[0]) if trained else "0"


def record(work: workplan.Work, **other) -> None:
    """What ``eval`` leaves at its end."""
    protocol = asdict(work.protocol)
    del protocol["limit"]
    found = made_up_record(**protocol | {"images": 10, "weights": weights(work)} | other)
    (work.folder / "eval-ibp.json").write_text(json.dumps(found))


def test_what_is_due_from_the_beginning_of_a_run_to_its_end(work):
    first, second = due(work)
    assert first.startswith("train --preset digits --set train.epochs=2 --out ")
    assert second == f"eval {work.folder} --method=ibp --device cpu"
    begin(work, True)
    assert due(work) == [second]
    record(work)
    assert due(work) == []
    RunFolder(work.folder).curves.unlink()  # as where training was killed before it drew them
    assert due(work) == [f"train --resume {work.folder} --device cpu"]


@pytest.mark.parametrize("finished", [None, False])
def test_a_run_that_was_begun_is_resumed(work, finished):
    begin(work, finished)
    work.check_folder()
    first, second = due(work)
    assert first == f"train --resume {work.folder} --device cpu"
    assert second.startswith("eval ")


def test_a_damaged_checkpoint_is_left_to_train_which_refuses_it(work):
    begin(work, True)
    (work.folder / checkpoint.FILE_NAME).write_bytes(b"x")
    assert due(work)[0] == f"train --resume {work.folder} --device cpu"


@pytest.mark.parametrize(
    "other", [{"eps": 0.2}, {"seed": 1}, {"clip": None}, {"images": 11}, {"group_size": 4}]
)
def test_an_evaluation_with_other_settings_is_repeated(work, other):
    begin(work, True)
    record(work, **other)
    assert due(work) == [f"eval {work.folder} --method=ibp --device cpu"]


def test_a_limit_beyond_the_images_means_all_of_them(work):
    begin(work, True)
    all_images = workplan.Work(**{**vars(work), "protocol": Protocol(eps=0.1, method="ibp")})
    beyond = Protocol(eps=0.1, method="ibp", limit=10_000)
    record(all_images, images=400)
    for protocol in (all_images.protocol, beyond):
        assert due(workplan.Work(**{**vars(work), "protocol": protocol})) == []


def partial(work: workplan.Work, **other) -> None:
    """What an interrupted ``eval`` leaves."""
    folder = work.folder / "eval-ibp.partial"
    folder.mkdir()
    header = {**asdict(work.protocol), "weights": weights(work), **other}
    (folder / "settings.json").write_text(json.dumps(header))


def test_an_interrupted_evaluation_is_resumed(work):
    begin(work, True)
    partial(work)
    resumed = [f"eval {work.folder} --method=ibp --resume --device cpu"]
    assert due(work) == resumed
    record(work)  # its pictures may be missing
    assert due(work) == resumed


def test_an_evaluation_of_a_network_half_trained_is_begun_anew(work):
    """As when somebody looks at a run that a sweep has not finished."""
    anew = [f"eval {work.folder} --method=ibp --device cpu"]
    begin(work, True)
    record(work)
    assert due(work) == []
    save(work, True)  # trained on since
    assert due(work) == anew
    record(work)
    partial(work)
    save(work, True)
    assert due(work) == anew


def test_an_interrupted_evaluation_with_other_settings_is_not(work):
    begin(work, True)
    partial(work, limit=20)
    assert due(work) == [f"eval {work.folder} --method=ibp --device cpu"]
    record(work)
    assert due(work) == []


def test_another_verifiers_verdicts_are_not_the_sweeps(work):
    begin(work, True)
    record(work, imported=3)
    anew = [f"eval {work.folder} --method=ibp --device cpu"]
    assert due(work) == anew
    partial(work, imported=[[0, "certified"]])
    assert due(work) == anew
    record(work, imported=0)
    assert due(work) == []


def test_a_run_whose_checkpoint_is_gone_is_trained_again(work):
    begin(work, True)
    partial(work)
    record(work)
    (work.folder / checkpoint.FILE_NAME).unlink()
    first, second = due(work)
    assert first == f"train --resume {work.folder} --device cpu"
    assert second == f"eval {work.folder} --method=ibp --device cpu"


def test_a_run_is_not_called_like_a_file_of_a_network(tmp_path):
    values = '["a/x.safetensors", "b/y.onnx", "b/z"]'
    found = expanded(tmp_path, f'preset = "digits"\n[grid]\n"train.init_from" = {values}\n')
    names = [run.name for run in found]
    assert [bool(Path(name).suffix) for name in names[:2]] == [True, True]
    assert not {Path(name).suffix for name in names} & set(FORMATS) and len(set(names)) == 3


def test_a_folder_that_is_no_run_is_refused(work):
    work.folder.mkdir()
    work.check_folder()  # empty
    (work.folder / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not a run folder.*--out"):
        work.check_folder()


def test_a_folder_of_another_configuration_stops_the_sweep_before_it_starts(tmp_path):
    file = written(tmp_path, GROUP)
    folder = tmp_path / "out" / "digits-ibp-seed1"
    other = resolve(preset="digits", overrides=["train.epochs=3", "train.milestones=[]"])
    RunFolder(folder).begin(other)
    status, output = run(file, "--out", tmp_path / "out")
    assert status == 2 and str(folder) in output and "citrus there, ibp here" in output
    assert f"than {folder.name} of this sweep" in output and "--out" in output
    assert "train.epochs: 3 there, 5 here" in output and "train.milestones: () there" in output
    assert "train.lr" not in output  # which is equal
    assert list((tmp_path / "out").iterdir()) == [folder]


# -- processes ------------------------------------------------------------------------


def job(folder: Path, name: str, *codes: str) -> Job:
    """Steps of Python code that each, once they succeed, leave a file behind."""
    files = [folder / f"{name}.{i}" for i in range(len(codes))]
    program = "import signal, sys, time, os\nfrom pathlib import Path\n"

    def next_step() -> Step | None:
        for i, (code, file) in enumerate(zip(codes, files, strict=True)):
            if not file.exists():
                text = f"{program}{code}\nPath({str(file)!r}).touch()"
                return Step(f"done {i}", (sys.executable, "-c", text))
        return None

    return Job(name, folder / f"{name}.log", next_step)


def run_jobs(jobs, count: int, said: list, react=lambda job, event: None) -> dict[str, str]:
    def say(one: Job, event: str) -> None:
        said.append((one.name, event))
        react(one, event)

    return run_all(jobs, places(count), say=say, ended=lambda: None)


def waits_for(file: Path) -> str:
    return f"while not Path({str(file)!r}).exists(): time.sleep(0.02)"


def test_steps_follow_one_another_and_jobs_run_side_by_side(tmp_path):
    # each first step ends only once the other job's has begun
    codes = [
        (f"Path({str(tmp_path / mine)!r}).touch()\n{waits_for(tmp_path / other)}", "print('x')")
        for mine, other in (("a", "b"), ("b", "a"))
    ]
    said: list = []
    assert run_jobs([job(tmp_path, "1", *codes[0]), job(tmp_path, "2", *codes[1])], 2, said) == {}
    events = [(name, event.partition(" in ")[0]) for name, event in said]
    for name in "12":
        assert [e for n, e in events if n == name] == ["done 0", "done 1"]


def test_never_more_at_once_than_asked(tmp_path):
    lock = f"Path({str(tmp_path / 'lock')!r})"
    code = f"{lock}.mkdir()\ntime.sleep(0.1)\n{lock}.rmdir()"  # fails where another one runs
    assert run_jobs([job(tmp_path, str(i), code) for i in range(3)], 1, []) == {}


def test_a_failure_leaves_the_others_alone(tmp_path):
    failing = "print('much'); print('Error: no luck', file=sys.stderr); sys.exit(1)"
    killed = "os.kill(os.getpid(), signal.SIGKILL)"
    silent = "sys.exit(7)"
    jobs = [job(tmp_path, "bad", failing), job(tmp_path, "killed", killed),
            job(tmp_path, "silent", silent), job(tmp_path, "good", "")]  # fmt: skip
    said: list = []
    assert run_jobs(jobs, 1, said) == {
        "bad": "Error: no luck", "killed": "ended by SIGKILL", "silent": "status 7"
    }  # fmt: skip
    assert (tmp_path / "good.0").exists()
    assert ("bad", "failed: Error: no luck") in said
    assert "much\n" in (tmp_path / "bad.log").read_text()


def test_a_step_that_is_due_again_after_it_succeeded_is_a_failure(tmp_path):
    step = Step("trained", (sys.executable, "-c", ""))
    endless = Job("endless", tmp_path / "log", lambda: step)
    failures = run_jobs([endless], 1, [])
    assert list(failures) == ["endless"] and "was trained" in failures["endless"]


def test_an_error_in_the_plan_of_a_job_is_its_failure(tmp_path):
    def refuse() -> None:
        raise InputError("cannot say")

    jobs = [Job("odd", tmp_path / "odd.log", refuse), job(tmp_path, "good", "")]
    assert run_jobs(jobs, 1, []) == {"odd": "cannot say"}
    assert (tmp_path / "good.0").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_reaches_each_process_once(tmp_path, number):
    signals = tmp_path / "signals"
    code = (
        "def note(*_):\n"
        f"    with open({str(signals)!r}, 'a') as file: file.write('SIGINT\\n')\n"
        "signal.signal(signal.SIGINT, note)\n"
        f"Path({str(tmp_path / 'ready')!r}).touch()\n"
        f"{waits_for(signals)}\ntime.sleep(0.3)\nsys.exit(130)"
    )
    trigger = f"{waits_for(tmp_path / 'ready')}\nos.kill({os.getpid()}, {int(number)})"
    jobs = [job(tmp_path, "long", code), job(tmp_path, "trigger", trigger),
            job(tmp_path, "later", "")]  # fmt: skip
    with pytest.raises(Interrupted, match="repeat the command"):
        run_jobs(jobs, 2, [])
    assert signals.read_text() == "SIGINT\n"
    assert not (tmp_path / "later.log").exists()


def test_a_second_interruption_kills(tmp_path):
    code = (
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        f"Path({str(tmp_path / 'ready')!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    )
    trigger = (
        f"{waits_for(tmp_path / 'ready')}\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"for _ in range(2): os.kill({os.getpid()}, signal.SIGINT); time.sleep(0.5)"
    )
    with pytest.raises(KeyboardInterrupt):
        run_jobs([job(tmp_path, "stubborn", code), job(tmp_path, "trigger", trigger)], 2, [])
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "ready").read_text()), 0)


SURVIVING = """
import sys
from pathlib import Path
sys.path[:0] = {tests!r}
from test_sweep import job, run_jobs, waits_for
folder = Path({folder!r})
run_jobs([job(folder, "one", f"Path({ready!r}).touch()\\n" + waits_for(folder / "go"))], 1, [])
"""


def test_a_process_that_outlived_its_sweep_is_waited_for(tmp_path):
    ready = tmp_path / "ready"
    text = SURVIVING.format(
        tests=[str(path) for path in Path(__file__).parents[:2]],
        folder=str(tmp_path),
        ready=str(ready),
    )
    with subprocess.Popen([sys.executable, "-c", text]) as earlier:
        wait_for(ready)
        earlier.kill()
    said: list = []
    again = job(tmp_path, "one", "raise SystemExit('begun a second time')")
    released = run_jobs([again], 1, said, lambda *_: (tmp_path / "go").touch())
    assert released == {}
    assert [event for _, event in said] == [
        "still runs since an earlier start; waiting for it", "was finished before"
    ]  # fmt: skip
    assert (tmp_path / "one.0").exists()


def test_cores_are_shared_unless_the_user_said_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    threads = [places(n)[-1]["OMP_NUM_THREADS"] for n in (1, 3, 8, 20)]
    assert threads == ["8", "2", "1", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert places(3)[0]["OMP_NUM_THREADS"] == "5"


def test_gpus_are_dealt_out(tmp_path):
    """Two runs at a time on each of two GPUs, and a GPU that is free goes to the next run."""
    seen = [place["CUDA_VISIBLE_DEVICES"] for place in places(4, ["3", "5"])]
    assert seen == ["3", "5", "3", "5"]
    lock = f"Path({str(tmp_path)!r}, os.environ['CUDA_VISIBLE_DEVICES'])"
    code = f"{lock}.mkdir()\ntime.sleep(0.1)\n{lock}.rmdir()\nprint('on', {lock}.name)"
    jobs = [job(tmp_path, str(i), code) for i in range(5)]
    assert run_all(jobs, places(2, ["3", "5"]), say=lambda *_: None, ended=lambda: None) == {}
    used = Counter(one.log.read_text().rpartition("on ")[2].strip() for one in jobs)
    assert set(used) == {"3", "5"} and sum(used.values()) == 5


def test_a_sweep_on_gpus_runs_one_on_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(sweep_action, "choose_device", torch.device)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def dealt(device: str, count: int | None = None) -> list:
        launch = sweep_action.LAUNCHERS["local"]([None] * 5, count, device=device)
        return [e.get("CUDA_VISIBLE_DEVICES") for e in launch.keywords["environments"]]

    assert dealt("cuda") == ["0", "1", "2"]
    assert dealt("cuda", 4) == ["0", "1", "2", "0"]
    assert dealt("cuda:1") == [None]  # the user's own choice
    assert dealt("cpu", 2) == [None, None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert dealt("cuda") == ["4", "6", "7"]


# -- whole sweeps ---------------------------------------------------------------------


def steps_in(log: Path) -> list[str]:
    """The commands of the log: train, resume, eval."""
    commands = [line for line in log.read_text().splitlines() if line.startswith("$ ")]
    kinds = [re.search(r"citrus_lirpa (train --resume|train|eval)", c).group(1) for c in commands]
    return [kind.rpartition("--")[2] for kind in kinds]


def compared(out: Path) -> list[str]:
    """The runs of the sweep's comparison."""
    tables = json.loads((out / "compare.json").read_text())["tables"]
    return sorted(record["run"] for table in tables for record in table["runs"])


def test_a_sweep_is_interrupted_continued_and_then_finished(tmp_path):
    text = SMALL_SWEEP.format(epochs=0, grid='"train.epochs" = [300, 1]')
    file = written(tmp_path, text.replace('"train.epochs" = 0\n', ""))
    out = tmp_path / "out"
    names = ["digits-ibp-epochs300", "digits-ibp-epochs1"]
    logs = [out / "logs" / f"{name}.log" for name in names]

    start = ("-m", "citrus_lirpa", "sweep", file, "--out", out, "--processes", 1)
    status, errors = signalled(start, out / names[0] / checkpoint.FILE_NAME, signal.SIGINT)
    assert status == 130 and errors.count("\n") == 1 and "repeat the command" in errors
    state = checkpoint.load(out / names[0])[1]
    assert state["step"] > 0 and not state["finished"]
    assert steps_in(logs[0]) == ["train"] and not logs[1].exists()

    status, output = run(file, "--out", out, "--processes", 2)
    assert status == 0, output
    assert [steps_in(log) for log in logs] == [["train", "resume", "eval"], ["train", "eval"]]
    for name, epochs in zip(names, (300, 1), strict=True):
        assert len(checkpoint.load(out / name)[1]["history"]) == epochs
        assert json.loads((out / name / "eval-ibp.json").read_text())["images"] == 10
        events = Counter(re.findall(rf"\] {name}: (\w+) in \d", output))
        assert events == {"trained": 1, "evaluated": 1}
    assert all(re.search(rf"^IBP .* {name} ", output, re.MULTILINE) for name in names)
    assert compared(out) == sorted(names) and (out / "compare.png").is_file()

    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    status, output = run(file, "--out", out)
    assert status == 0 and output.count("was finished before") == 2
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    status, output = run(file, "--out", out, "--dry-run")
    assert output == "".join(f"[{i}/2] {name}: finished\n" for i, name in enumerate(names, 1))


def test_a_sweep_evaluates_images_held_out_from_training(tmp_path, one_process):
    text = SMALL_SWEEP.format(epochs=1, grid='"train.seed" = [0]') + "held-out = true\n"
    status, output = run(written(tmp_path, text), "--out", tmp_path / "out")
    assert status == 2 and "[eval] says held-out, but data.held_out is 0" in output
    assert not (tmp_path / "out").exists()
    text = text.replace('"data.limit"', '"data.held_out" = 20\n"data.limit"')
    for again in (False, True):
        status, output = run(written(tmp_path, text), "--out", tmp_path / "out")
        assert status == 0, output
        assert "digits, ε = 0.1, 10 held-out images, groups of 5" in output
        assert ("trained in" in output) == (not again)


@pytest.mark.filterwarnings("ignore:the loss is")
def test_a_failing_run_beside_a_good_one(tmp_path, one_process):
    file = written(tmp_path, SMALL_SWEEP.format(epochs=1, grid='"train.lr" = [1e30, 0.001]'))
    status, output = run(file, "--out", tmp_path / "out")
    assert status == 1
    *_, last = output.splitlines()
    assert "\ndigits-ibp-lr1e+30 failed: Error: the " in output and "became" in output
    assert last.startswith("Error: 1 of 2 runs failed") and str(tmp_path / "out" / "logs") in last
    assert "digits-ibp-lr0.001: evaluated in " in output
    assert compared(tmp_path / "out") == ["digits-ibp-lr0.001"]
