"""train: determinism, resuming bit for bit, metrics by hand, and what stops a run."""

import json
import math
import os
import shlex
import shutil
import signal

import pytest
import together
import torch
import torch.nn.functional as F
from torch import nn

from citrus_lirpa import BoundedNet, data
from citrus_lirpa.bounds.box import Box
from citrus_lirpa.data.types import Split
from citrus_lirpa.errors import CheckpointError, InputError, Interrupted
from citrus_lirpa.losses import LossTerms
from citrus_lirpa.reports import tables as report
from citrus_lirpa.runs.networks import load_network
from citrus_lirpa.training import checkpoint, trainer
from citrus_lirpa.training import loop as train
from citrus_lirpa.training.batchnorm import precise_batchnorm, running_statistics
from citrus_lirpa.training.config import RunConfig, methods
from citrus_lirpa.training.epochs import read_epochs
from citrus_lirpa.training.regularisers import shi_regulariser
from citrus_lirpa.training.state import TrainingState
from citrus_lirpa.training.tables import TrainConfig

#: Three epochs of four steps, with ε from the first step on.
SMALL = ("data.limit=64", "train.batch_size=16", "train.epochs=3", "train.ramp_start=1",
         "train.ramp_length=1", "train.milestones=[2]", "loss.attack_steps=2",
         "model.hidden=[12]")  # fmt: skip
#: For every method: two epochs, ε rising in the first, and two ReLUs for TAPS.
ANY = ("data.limit=64", "train.batch_size=16", "train.epochs=2", "train.ramp_start=1",
       "train.ramp_length=1", "train.milestones=[]", "model.hidden=[12, 8]")  # fmt: skip
#: SMALL with BatchNorm, whose buffers are part of the state.
CNN = (*SMALL[:-1], "model.name=cnn7", "model.width=2", "model.linear=8", "train.precise_bn=true")


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Split:
    return data.load("digits", train=True, data_dir=tmp_path_factory.mktemp("none"))


class Run(together.Run):
    """A configuration with a freshly built network, which ``fit`` trains."""

    def __init__(self, digits, *overrides, method=None, folder=None, loss=None):
        super().__init__(method, overrides, folder)
        self.loss = self.loss if loss is None else loss

    @property
    def state(self) -> dict:
        return self.weights()


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def timeless(records: list[dict]) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def trained(digits, *overrides: str, **more) -> tuple[list[dict], dict]:
    """Records and weights of an uninterrupted run."""
    run = Run(digits, *overrides, **more)
    return timeless(run.fit()), run.state


@pytest.fixture(scope="module")
def whole(digits) -> dict:
    return {"mlp": trained(digits, *SMALL), "cnn": trained(digits, *CNN)}


# -- determinism and metrics --------------------------------------------------------


def test_one_seed_one_result(digits):
    (records, state), again, other = (trained(digits, *SMALL, f"train.seed={s}") for s in (3, 3, 4))
    assert same(state, again[1]) and records == again[0]
    assert not same(state, other[1]) and records != other[0]


def test_loss_decreases_on_the_digits(digits):
    run = Run(digits, "train.epochs=4", "train.eps=0.02", "train.ramp_start=1",
              "train.ramp_length=0", "train.milestones=[]", "train.lr=0.01", "loss.attack_steps=2",
              "model.hidden=[32]")  # fmt: skip
    records = run.fit()
    losses = [r["loss"] for r in records]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.3 * losses[0]
    assert records[-1]["accuracy"] > 0.8 > records[0]["accuracy"]
    assert records[-1]["certified"] > 0.5 > records[0]["certified"]


def test_learning_rate():
    config = TrainConfig(eps=0.1, epochs=4, lr=8.0, lr_factor=0.5, milestones=(1.5, 3))
    rates = {0: 8, 1.49: 8, 1.5: 4, 2.99: 4, 3: 2, 9: 2}
    assert {at: train.learning_rate(config, at) for at in rates} == rates


def test_records(digits, tmp_path):
    run = Run(digits, *SMALL, "train.ramp_start=2", "train.lr=1e-3", "train.milestones=[2]",
              folder=tmp_path)  # fmt: skip
    seen = []
    records = run.fit(on_epoch=seen.append)
    assert seen == records == lines_of(tmp_path)
    assert [r["epoch"] for r in records] == [1, 2, 3]
    assert [r["step"] for r in records] == [4, 8, 12]  # 64 images in batches of 16
    assert [r["eps"] for r in records] == [0, 0.1, 0.1]
    assert [r["lr"] for r in records] == [1e-3, 1e-3, 1e-3 * 0.2]
    assert records[0]["certified"] is None  # ε was zero: nothing was bounded
    assert all(0 <= r["certified"] <= 1 for r in records[1:])
    assert all(0 <= r["accuracy"] <= 1 and r["seconds"] > 0 and r["loss"] > 0 for r in records)
    keys = {"epoch", "step", "eps", "lr", "loss", "regulariser", "accuracy", "certified", "kappa",
            "seconds"}  # fmt: skip
    assert all(set(r) == keys for r in records)


@pytest.mark.parametrize(("shi", "l1"), [(0.0, 0.5), (0.25, 0.0)])
def test_records_by_hand(digits, shi, l1):
    """Epochs of one step over all images: a record is what the network said before it."""
    run = Run(digits, *SMALL, "train.batch_size=64", "train.epochs=2", "train.eps=0",
              "train.ramp_start=3", "train.initialisation=default", "train.lr=0.01",
              f"train.shi={shi}", f"train.l1={l1}")  # fmt: skip
    x, y = digits.pixels(slice(64)), digits.labels[:64]
    expected = []

    def measure(_record=None):
        with torch.no_grad():
            logits = run.net.module(x)
            point = Box.around(x, 1e-6)
            balance = shi_regulariser(point, run.net.preactivation_bounds(point))
            size = sum(p.abs().sum() for p in run.net.parameters() if p.ndim > 1)
        accuracy = float((logits.argmax(1) == y).float().mean())
        regulariser = float(shi * balance + l1 * size)
        expected.append((float(F.cross_entropy(logits, y)), accuracy, regulariser))

    measure()
    for record, values in zip(run.fit(on_epoch=measure), expected, strict=False):
        found = [record[key] for key in ("loss", "accuracy", "regulariser")]
        assert found == pytest.approx(values, rel=1e-3) and found[2] > 0.01
    assert expected[0][0] != pytest.approx(expected[1][0], rel=1e-3)


# -- every method -------------------------------------------------------------------


@pytest.mark.parametrize("method", [m for m in methods() if m != "denoiser"])
def test_every_method_trains_the_same_twice(digits, method):
    begun = Run(digits, *ANY, method=method).state
    records, state = trained(digits, *ANY, method=method)
    assert (records, same(state, begun)) == (trained(digits, *ANY, method=method)[0], False)
    factor = 1.05 if method == "colt" else 1
    assert [r["eps"] for r in records] == pytest.approx([0.1 * factor, 0.1 * factor])
    assert all(math.isfinite(r["loss"]) for r in records)
    noisy = method in ("gaussian", "smoothadv", "colt")
    bounded = not noisy and method not in ("ce", "pgd", "uat", "cw-uat", "uap-game")
    assert all((r["certified"] is not None) == bounded for r in records)
    attacked = not noisy and method not in ("ce", "ibp", "crown-ibp", "taps")
    assert all(isinstance(r["kappa"], int) if attacked else r["kappa"] is None for r in records)


def test_frozen_layers_stay_as_they_are(digits):
    """Stage by stage, though L1 draws on every other weight; rates fall within each stage."""
    run = Run(digits, *ANY[:-1], "model.hidden=[12, 8, 6]", "train.epochs=3", "train.l1=0.01",
              "train.lr=0.01", "loss.halvings=4", method="colt")  # fmt: skip
    layers = [layer for layer in run.net.module if isinstance(layer, nn.Linear)]
    seen = []

    def keep(_record=None):
        seen.append([layer.weight.detach().clone() for layer in layers])

    keep()
    records = run.fit(on_epoch=keep)
    moved = [[not torch.equal(a, b) for a, b in zip(*pair, strict=True)]
             for pair in zip(seen, seen[1:], strict=False)]  # fmt: skip
    assert moved == [[True] * 4, [False, True, True, True], [False, False, True, True]]
    # the last of an epoch's four steps is at 0.75 of its stage, in the third part of the rest
    assert [r["lr"] for r in records] == pytest.approx([0.01 * 0.75**s / 4 for s in range(3)])


class Trying(nn.Module):
    """Cross-entropy, with perturbations that it claims to have tried, at the ε it was given."""

    def __init__(self, perturbations, clip=None):
        super().__init__()
        self.perturbations, self.clip, self.seen = perturbations, clip, []

    def forward(self, net, x, y, eps):
        self.seen.append(eps)
        total = F.cross_entropy(logits := net(x), y)
        return LossTerms(total, logits, Box.around(x, 1e-6), perturbations=self.perturbations)


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_kappa_by_hand(digits, clip):
    """Of the network that the epoch ends with, and of perturbations within ε."""
    tried = torch.empty(9, 1, 8, 8).uniform_(-0.6, 0.6)
    run = Run(digits, *SMALL, "train.batch_size=64", "train.epochs=12", "train.eps=0.2",
              "train.ramp_length=8", "train.lr=0.02", loss=Trying(tried, clip))  # fmt: skip
    x, y = digits.pixels(slice(64)), digits.labels[:64]
    expected, unprojected = [], []

    @torch.no_grad()
    def measure(record):
        def strongest(perturbations):
            right = run.net.module(x).argmax(1) == y
            points = (x + v if clip is None else (x + v).clamp(*clip) for v in perturbations)
            return max(int((right & (run.net.module(p).argmax(1) != y)).sum()) for p in points)

        # the ε of the epoch's last step: the record holds that of the next
        expected.append(strongest(tried.clamp(-run.loss.seen[-1], run.loss.seen[-1])))
        unprojected.append(strongest(tried))

    records = run.fit(on_epoch=measure)
    assert [r["kappa"] for r in records] == expected
    assert len(set(expected)) > 2 and max(expected) > 2 and expected != unprojected
    assert f"κ ≥ {expected[-1]}, " in report.epoch_line(records[-1])


def test_without_perturbations_there_is_no_kappa(digits):
    records = Run(digits, *ANY, loss=Trying(None)).fit()
    assert [r["kappa"] for r in records] == [None, None]
    assert "κ" not in report.epoch_line(records[-1])


def test_eps_factor_is_of_the_training_alone(digits, tmp_path):
    """Training ends with eps_factor·ε; a run is judged by ε."""
    run = Run(digits, *ANY, "train.eps_factor=3/2", folder=tmp_path, loss=Trying(None))
    records = run.fit()
    assert [r["eps"] for r in records] == pytest.approx([0.15, 0.15])
    assert run.loss.seen[0] == 0 and run.loss.seen[-1] == pytest.approx(0.15)
    assert load_network(tmp_path).eps == 0.1
    taps = Run(digits, *ANY, "train.eps_factor=3/2", method="taps").loss
    assert taps.max_eps == pytest.approx(0.15)


# -- interrupting and resuming ------------------------------------------------------


def at_step(run: Run, step: int, action) -> Run:
    """The run, with ``action`` called in its step number ``step``."""
    steps = []

    def count(*_):
        steps.append(1)
        if len(steps) == step:
            action()

    run.loss.register_forward_hook(count)
    return run


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.parametrize("step", [1, 6, 8, 12])  # 4 and 8 end an epoch, 12 the run
def test_interrupted_and_resumed_is_uninterrupted(digits, whole, tmp_path, step, model):
    overrides = {"mlp": SMALL, "cnn": CNN}[model]
    folder = tmp_path / "my run"  # to be quoted for a shell
    with pytest.raises(Interrupted) as caught:
        at_step(Run(digits, *overrides, folder=folder), step, interrupt).fit()
    where, _, command = str(caught.value).partition("; continue with: ")
    assert f"epoch {-(-step // 4)} of 3" in where and caught.value.exit_code == 130
    assert shlex.split(command) == ["citrus-lirpa", "train", "--resume", str(folder)]
    assert checkpoint.load(folder)[1]["step"] == step
    resumed = Run(digits, *overrides, folder=folder)
    records = timeless(resumed.fit())
    assert (records, same(resumed.state, whole[model][1])) == (whole[model][0], True)
    assert timeless(lines_of(folder)) == records
    assert same(checkpoint.load(folder)[1]["model"], resumed.state)


@pytest.mark.parametrize("step", [3, 6])  # before and after the ramp's end
@pytest.mark.parametrize(
    ("method", "more"),
    [("uat", ()), ("cw-uat", ()), ("citrus", ("loss.universal=2",)), ("taps", ()), ("staps", ()),
     ("mtl-ibp", ())],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_method_interrupted_and_resumed_is_uninterrupted(digits, tmp_path, method, more, step):
    overrides = (*ANY, "train.lr=0.01", *more)
    run = Run(digits, *overrides, method=method, folder=tmp_path)
    with pytest.raises(Interrupted):
        at_step(run, step, interrupt).fit()
    state = checkpoint.load(tmp_path)[1]
    assert state["step"] == step and bool(state["loss"]) == (method in ("uat", "cw-uat", "citrus"))
    resumed = Run(digits, *overrides, method=method, folder=tmp_path)
    records, weights = trained(digits, *overrides, method=method)
    assert timeless(resumed.fit()) == records and same(resumed.state, weights)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [("loss.name=ce", "loss.name=uat", ["'ce'", "'uat'"]),
     ("loss.name=uat", "loss.name=cw-uat", ["'uat'", "'cw-uat'"]),
     ("loss.universal=2", "loss.universal=0", ["does not fit the loss", "universal"]),
     ("loss.universal=0", "loss.universal=2", ["does not fit the loss", "universal"])],
)  # fmt: skip
def test_state_of_another_loss_is_refused(digits, tmp_path, before, after, words):
    Run(digits, *ANY, "train.epochs=1", before, folder=tmp_path).fit()
    with pytest.raises(CheckpointError) as caught:
        Run(digits, *ANY, after, folder=tmp_path).fit()
    message = str(caught.value)
    assert all(word in message for word in (str(tmp_path), *words)) and "\n" not in message


def test_interrupt_from_a_callback(digits, whole, tmp_path):
    run = Run(digits, *SMALL, folder=tmp_path)
    with pytest.raises(Interrupted):
        run.fit(on_epoch=lambda record: interrupt())
    assert [r["epoch"] for r in lines_of(tmp_path)] == [1]
    resumed = Run(digits, *SMALL, folder=tmp_path)
    assert timeless(resumed.fit()) == whole["mlp"][0] and same(resumed.state, whole["mlp"][1])


def test_damaged_metrics_are_named_by_their_line_and_written_again(digits, tmp_path):
    run = Run(digits, *ANY, folder=tmp_path)
    run.fit()
    metrics = tmp_path / checkpoint.METRICS_FILE
    whole = metrics.read_text()
    assert whole.count("\n") > 1
    metrics.write_text(whole[:-40])
    number = whole.count("\n")
    with pytest.raises(CheckpointError, match=rf"damaged: .*: line {number} .*train --resume"):
        read_epochs(tmp_path)
    Run(digits, *ANY, folder=tmp_path).fit()
    assert metrics.read_text() == whole


def test_crash_after_a_save_in_mid_epoch(digits, whole, tmp_path, monkeypatch):
    def crash():
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(trainer, "SAVE_EVERY_SECONDS", -1.0)
        at_step(Run(digits, *SMALL, folder=tmp_path), 7, crash).fit()
    assert checkpoint.load(tmp_path)[1]["step"] == 6
    resumed = Run(digits, *SMALL, folder=tmp_path)
    assert timeless(resumed.fit()) == whole["mlp"][0] and same(resumed.state, whole["mlp"][1])


@pytest.mark.parametrize(("apart", "saves"), [(0, [4, 8, 12, 12]), (1e12, [4, 12])])
def test_short_epochs_share_a_checkpoint(digits, tmp_path, monkeypatch, apart, saves):
    """Between two lies a multiple of the time that one takes; the first has no such time yet."""
    seen, save = [], TrainingState.save
    monkeypatch.setattr(trainer, "SAVING_APART", apart)
    monkeypatch.setattr(
        TrainingState, "save", lambda state, *args: (seen.append(state.step), save(state, *args))
    )
    Run(digits, *SMALL, folder=tmp_path).fit()
    assert seen == saves and len(lines_of(tmp_path)) == 3


def test_a_finished_run_is_left_as_it_is(digits, tmp_path):
    run = Run(digits, *CNN, folder=tmp_path)
    records = run.fit()
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()}
    again = Run(digits, *CNN, folder=tmp_path)
    at_step(again, 1, lambda: pytest.fail("a step was made"))
    assert again.fit() == records and same(again.state, run.state)
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()} == before


# -- warm starts --------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(digits, tmp_path_factory) -> tuple:
    """A run folder of a network with BatchNorm, and what it ended with."""
    folder = tmp_path_factory.mktemp("source") / "run"
    run = Run(digits, *CNN, folder=folder)
    run.fit()
    return folder, run.state


@pytest.mark.parametrize("file", ["", checkpoint.FILE_NAME])
def test_a_warm_start_begins_with_the_weights_of_the_other_run(digits, source, file):
    folder, weights = source
    run = Run(digits, *CNN, f"train.init_from={folder / file}", "train.seed=1", method="sabr")
    assert not same(run.state, weights)
    seen = []
    run.loss.register_forward_pre_hook(lambda *_: seen.append(run.state))
    run.fit()
    assert same(seen[0], weights)  # statistics of BatchNorm among them


def test_a_resumed_warm_start_needs_its_source_no_more(digits, source, tmp_path):
    moved = tmp_path / "source"
    shutil.copytree(source[0], moved)
    overrides = (*CNN, f"train.init_from={moved}", "train.seed=1")
    records, weights = trained(digits, *overrides)
    assert records != trained(digits, *CNN, "train.seed=1")[0]
    with pytest.raises(Interrupted):
        at_step(Run(digits, *overrides, folder=tmp_path / "run"), 6, interrupt).fit()
    shutil.rmtree(moved)
    resumed = Run(digits, *overrides, folder=tmp_path / "run")
    assert timeless(resumed.fit()) == records and same(resumed.state, weights)


def test_a_warm_start_that_is_none(digits, source, tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "foreign.pt")
    for path, words in ((tmp_path / "none", "does not exist"), (tmp_path, "holds no"),
                        (tmp_path / "foreign.pt", "it lacks"),
                        (source[0], "does not fit the network to be trained (mlp for digits; "
                         "there ")):  # fmt: skip
        folder = tmp_path / "run"
        with pytest.raises(CheckpointError if path == tmp_path else InputError) as caught:
            Run(digits, *SMALL, f"train.init_from={path}", folder=folder).fit()
        message = str(caught.value)
        assert str(path) in message and words in message and "\n" not in message
        assert not folder.exists()


# -- BatchNorm ----------------------------------------------------------------------


def test_precise_batchnorm_by_hand(digits):
    """Means over two batches of equal size of the batch statistics, layer after layer."""
    run = Run(digits, *CNN)
    norms = [m for m in run.net.module if isinstance(m, nn.BatchNorm2d)]
    norms[0].momentum = 0.3
    run.net.module.train()(digits.pixels(slice(100)))  # statistics to be forgotten
    run.net.train()
    norms[1].eval()
    some = Split(digits.images[:444], digits.labels[:444])
    precise_batchnorm(run.net, some, checkpoint.data_spec(run.config))
    assert run.net.module.training and norms[0].training and not norms[1].training
    assert norms[0].momentum == 0.3
    convolutions = [m for m in run.net.module if isinstance(m, nn.Conv2d)]
    inputs = [digits.pixels(slice(0, 222)), digits.pixels(slice(222, 444))]
    for convolution, norm in zip(convolutions[:2], norms[:2], strict=True):
        outputs = [convolution(x) for x in inputs]
        mean = sum(h.mean(dim=(0, 2, 3)) for h in outputs) / 2
        variance = sum(h.var(dim=(0, 2, 3), unbiased=True) for h in outputs) / 2
        assert torch.allclose(norm.running_mean, mean, atol=1e-6)
        assert torch.allclose(norm.running_var, variance, rtol=1e-4)
        inputs = [
            F.relu(F.batch_norm(h, None, None, norm.weight, norm.bias, training=True, eps=norm.eps))
            for h in outputs
        ]


def test_layers_without_running_statistics_have_none_to_average():
    kept, none = nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False)
    mean, variance = running_statistics(nn.Sequential(kept, none))
    assert mean is kept.running_mean and variance is kept.running_var


def test_fit_takes_a_network_that_is_wrapped_and_a_split(digits):
    run = Run(digits)
    with pytest.raises(InputError, match="wrap the model first"):
        train.fit(nn.Flatten(), run.loss, digits, run.config)
    with pytest.raises(InputError, match="data is a int; expected"):
        train.fit(run.net, run.loss, 7, run.config)


def test_fit_describes_its_training_in_the_folder(digits, tmp_path):
    run = Run(digits, *SMALL, folder=tmp_path / "run")
    run.fit()
    described = (tmp_path / "run" / checkpoint.CONFIG_FILE).read_text("utf-8")
    assert RunConfig.from_toml(described, "it") == run.config


def test_a_run_folder_takes_only_the_network_that_its_configuration_names(digits, tmp_path):
    """Every later command makes the network of the configuration."""
    run = Run(digits)
    other = BoundedNet(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), torch.zeros(2, 1, 8, 8))
    torch.manual_seed(0)
    drawn = torch.get_rng_state()
    with pytest.raises(InputError, match=r"is not the model 'mlp' .*model.source=FILE.py:NAME"):
        train.fit(other, run.loss, digits, run.config, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists() and torch.equal(drawn, torch.get_rng_state())


def test_fit_ends_with_precise_batchnorm(digits, whole):
    run = Run(digits, *CNN, "train.precise_bn=false")
    run.fit()
    assert not same(run.state, whole["cnn"][1])  # the running statistics
    some = Split(digits.images[:64], digits.labels[:64])
    precise_batchnorm(run.net, some, checkpoint.data_spec(run.config))
    assert same(run.state, whole["cnn"][1])
