"""The folder of an evaluation's proofs: the network as ONNX, and one file for each batch."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import checker, distributed
from ..bounds.box import Ball
from ..bounds.net import BoundedNet
from ..bounds.segments import INPUT
from ..errors import ModelError
from ..formats import onnx
from ..formats.atomic import write_bytes, write_text
from .certificates import Certificates
from .crown.proofs import Proofs
from .groups import UapBounds
from .record import ProofFigures

#: The name of the network in the folder.
MODEL = "model.onnx"
_OWNER = "evaluation.txt"
#: Difference of two programs' values that no other order of the ReLUs explains, relative, and that
#: of their logits, relative to the largest.
_CLOSE, _LOGITS_CLOSE = 1e-3, 1e-5


class ProofFolder:
    """A folder that receives the proofs of an evaluation.

    Args:
        path: The folder, which need not exist.
        net: The network, in eval mode.
        ball: The perturbations.
        identity: Of the evaluation; files of another one are removed.
        arithmetic: That the network is computed in.

    Raises:
        ModelError: The network is not of layers that the dual engine takes and the checker reads.
        DependencyError: The onnx package is missing.
    """

    def __init__(
        self,
        path: Path,
        net: BoundedNet,
        ball: Ball,
        identity: str = "",
        arithmetic: str = "real",
    ):
        self.path, self.ball, self.arithmetic = path, ball, arithmetic
        file = path / MODEL
        with distributed.leader_first():
            if distributed.leads():
                _clear(path, identity)
                proto = onnx.exported(net.module, net.input_shape, folded=False)
                write_bytes(file, proto.SerializeToString())
        self.network = _read(file, net)

    def store(
        self,
        number: int,
        proofs: Proofs,
        first: int,
        group_size: int,
        certificates: Certificates,
        uap: UapBounds,
    ) -> None:
        """Write the proofs of batch ``number``, and claim in its file what follows from them.

        ``first`` is the number of the batch's first image.
        """
        groups = []
        for g, (size, lower) in enumerate(zip(uap.size.tolist(), uap.lower.tolist(), strict=True)):
            members = range(g * group_size, g * group_size + size)
            groups.append((members[0], size, min(lower, proofs.safe(members))))
        certified = certificates.certified.nonzero().flatten().tolist()
        proofs.save(
            self._file(number),
            network=self.network.hash,
            ball=self.ball,
            arithmetic=self.arithmetic,
            first=first,
            certified=[i for i in certified if proofs.certified(i)],
            groups=groups,
        )

    def figures(self, uap: UapBounds) -> ProofFigures:
        """Count the certificates of all batches that have proofs."""
        images, safe = 0, []
        for file in sorted(self.path.glob("*.npz")):
            with np.load(file, allow_pickle=False) as arrays:
                statement = json.loads(str(arrays["statement"]))
            images += len(statement["certified"])
            safe += [group[2] for group in statement["groups"]]
        groups = sum(mine >= lower for mine, lower in zip(safe, uap.lower.tolist(), strict=True))
        return ProofFigures(images, groups)

    def has(self, number: int) -> bool:
        """Tell whether the file of a batch is there."""
        return self._file(number).is_file()

    def _file(self, number: int) -> Path:
        return self.path / f"{number:05d}.npz"


def _clear(folder: Path, identity: str) -> None:
    """Remove the proofs of another evaluation, and note which one the next are of."""
    if identity_of_proofs(folder) != identity:
        for file in folder.glob("*.npz"):
            file.unlink()
    write_text(folder / _OWNER, identity)


def identity_of_proofs(folder: Path) -> str | None:
    """Return the identity of the evaluation that proofs are of; None where it is lost."""
    owner = folder / _OWNER
    return owner.read_text("utf-8") if owner.is_file() else None


def _read(file: Path, net: BoundedNet) -> checker.Network:
    """Return the network as the checker reads it, once it is known to be the engine's."""
    try:
        network = checker.read_network(file)
    except checker.Refused as error:
        raise ModelError(f"the checker of proofs does not read this network: {error}") from error
    parameter = net.parameters()[0]
    draw = torch.Generator().manual_seed(0)
    x = torch.rand((3, *net.input_shape), generator=draw).to(parameter)
    with torch.no_grad(), net.evaluating():
        logits, *values = (part.double().cpu().flatten(1) for part in (net(x), *_values(net, x)))
    for image, its_logits, *found in zip(x.double().cpu().numpy(), logits, *values, strict=True):
        wanted = [torch.from_numpy(part.ravel()) for part in network.values(image)]
        close = _LOGITS_CLOSE * (1 + float(wanted[-1].abs().max()))
        same = [len(part) for part in found] == [len(part) for part in wanted]
        if not (
            same
            and all(map(partial(torch.allclose, rtol=_CLOSE, atol=_CLOSE), found, wanted))
            and torch.allclose(its_logits, wanted[-1], rtol=0.0, atol=close)
        ):
            raise ModelError(
                "the ONNX file of this network has its neurons in another order, or computes "
                "something else; leave out --proofs"
            )
    return network


def _values(net: BoundedNet, x: Tensor) -> list[Tensor]:
    """Return the inputs of all ReLUs and curves on an image, in the engine's order, and logits."""
    values, found = {INPUT: x}, []
    for number, segment in enumerate(net.affine_segments()):
        found.append(segment(*(values[source] for source in segment.sources)))
        curve = segment.curve
        values[number] = found[-1].relu() if curve is None else curve.function(found[-1])
    return found
