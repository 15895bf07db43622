"""Training scripts that import, log and loop as auto_LiRPA's public ones do, with our loss."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import torch
from torch import nn

from citrus_lirpa import Citrus
from citrus_lirpa.bounds import lirpa

ROOT = Path(__file__).resolve().parents[2]
X, Y = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
SCRIPT = """
    import logging, time
    import citrus_lirpa
    from auto_LiRPA import BoundedModule, BoundedTensor, BoundDataParallel
    from auto_LiRPA.bound_ops import *
    from auto_LiRPA.eps_scheduler import SmoothedScheduler
    from auto_LiRPA.perturbations import *
    from auto_LiRPA.utils import *
    from citrus_lirpa import Citrus
    logger.addHandler(logging.FileHandler("training.log"))

    def train(model, loader, eps_scheduler, opt):
        meter = MultiAverageMeter()
        model.train() if opt else model.eval()
        eps_scheduler.train()
        eps_scheduler.set_epoch_length(len(loader))
        eps_scheduler.step_epoch(verbose=False)
        for i, (data, labels) in enumerate(loader):
            eps_scheduler.step_batch(verbose=False)
            eps = eps_scheduler.get_eps()
            loss = Citrus(0.5)(model, data, labels, eps)
            if opt:
                opt.zero_grad()
                (loss / 2).backward()
                opt.step()
            lb = loss.margins.flatten(1)
            error = torch.sum((lb < 0).any(dim=1)).item() / data.size(0)
            assert abs(error - loss.certified_error()) < 1e-6 and not torch.isnan(loss)
            meter.update("Loss", loss.item(), data.size(0))
            meter.update("Verified_Err", error, data.size(0))
            print("[{:2d}]: eps={:.8f} {}".format(i, eps, meter))
        logger.info("epoch: eps={:.3f} {}".format(eps, meter))

    torch.manual_seed(0)
    np.random.seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    model = BoundDataParallel(BoundedModule(network, torch.zeros(2, 1, 4, 4)))
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = [(torch.rand(6, 1, 4, 4), torch.arange(6) % 3)] * 3
    scheduler = SmoothedScheduler(0.1, "start=1,length=2")
    train(model, loader, scheduler, opt)
    train(model, loader, scheduler, opt)
    with torch.no_grad():
        train(model, loader, scheduler, None)
"""


def run(code, folder):
    """The finished process of a script."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": paths}, cwd=folder, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip


def test_scripts_keep_their_print_and_their_logger(tmp_path):
    done = run(SCRIPT, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("[ ") and "Verified_Err=" in line for line in lines) == 9
    logged = [line for line in lines if re.match(r"INFO     \d\d:\d\d:\d\d ", line)]
    assert len(logged) == 3 and len(lines) == 12
    file = (tmp_path / "training.log").read_text("utf-8").splitlines()
    assert [line[line.index("epoch:") :] for line in logged] == file


def test_auto_lirpa_loaded_before_keeps_print_and_leaves_the_users_own_console_alone(tmp_path):
    done = run(
        """
        import logging, sys
        logging.basicConfig(stream=sys.stdout, format="mine: %(message)s", level=logging.INFO)
        from citrus_lirpa.bounds import lirpa
        lirpa.load()
        from auto_LiRPA.utils import *
        logger.info("once")
        print("visible")
        """,
        tmp_path,
    )
    assert done.stdout == "mine: once\nvisible\n"


def test_bounds_of_nodes_are_filled_by_a_pass_over_the_boxes_of_the_loss():
    """As docs/howto/loop.md says."""
    library = lirpa.load()
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    net = library.BoundedModule(model, X[:2])
    loss = Citrus(0.5)(net, X, Y, 0.1)
    box = library.PerturbationLpNorm(x_L=loss.box.lower, x_U=loss.box.upper)
    net.compute_bounds(x=(library.BoundedTensor(loss.box.lower, box),), method="IBP")
    (before,) = (node.inputs[0] for node in net._modules.values() if "Relu" in type(node).__name__)
    (interval,) = loss.bounds.preactivation_boxes
    torch.testing.assert_close((before.lower, before.upper), tuple(interval))
