"""A training by several processes on pretended GPUs, for tests/product/test_pretended_gpu.py.

By ``torchrun --nproc_per_node=2 job_on_pretended_gpu.py FOLDER`` each process writes what it
exchanged to ``FOLDER/RANK.json``. gloo carries what NCCL would.
"""

import pretend_cuda  # before torch

# isort: split

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from citrus_lirpa import data, distributed
from citrus_lirpa.training import setup
from citrus_lirpa.training.config import resolve
from citrus_lirpa.training.loop import fit

DIGITS = data.load("digits", train=True, data_dir=Path("none"))
SETTINGS = [
    "train.epochs=3", "train.batch_size=20", "data.limit=60", "train.ramp_start=1",
    "train.ramp_length=1", "model.name=cnn7", "model.width=2", "model.linear=8",
    "loss.attack_steps=2", "loss.universal=2",
]  # fmt: skip
EXCHANGES = ("all_reduce", "broadcast", "all_gather_object", "broadcast_object_list", "barrier")
SEEN: list[list] = []


def on_host(name: str):
    """An exchange that is noted, and carried by gloo between the tensors' values."""
    original = getattr(dist, name)

    def exchange(value=None, *args, **options):
        tensor = value if isinstance(value, torch.Tensor) else torch.empty(0)
        alone = options.get("group") is not None
        shape = str(tensor.dtype), tensor.numel(), tensor.is_contiguous()
        SEEN.append([name, tensor.device.type, alone, *shape])
        given = () if value is None else (pretend_cuda._host(value),)
        return original(*given, *args, **options)

    return exchange


def main(folder: Path) -> None:
    join = dist.init_process_group
    backends = []

    def join_by_gloo(backend, **options):
        backends.append(backend)
        join("gloo", **options)

    dist.init_process_group = join_by_gloo
    distributed.start(cuda=True)
    for name in EXCHANGES:
        setattr(dist, name, on_host(name))
    config = resolve(preset="digits", method="citrus", overrides=SETTINGS)
    with pretend_cuda.Pretended() as seen:
        net, loss = setup.build(config, torch.device("cuda"))
        SEEN.clear()
        fit(net, loss, DIGITS, config)
        weights = torch.cat([t.flatten() for t in net.module.state_dict().values()]).tolist()
    found = {"backends": backends, "exchanges": SEEN, "mixed": seen.mixed, "weights": weights}
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
