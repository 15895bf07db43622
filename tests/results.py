"""An evaluation, its record and the records of a training, made up."""

from typing import Any

import torch

from citrus_lirpa.verify import Certificates, Evaluation, Protocol, UapBounds

RECORDS = [
    {"epoch": 1, "step": 4, "eps": 0.0, "lr": 1e-3, "loss": 2.25, "regulariser": 0.5,
     "accuracy": 0.125, "certified": None, "seconds": 0.1},
    {"epoch": 2, "step": 8, "eps": 0.1, "lr": 1e-3, "loss": 1.0625, "regulariser": 0.25,
     "accuracy": 0.87654, "certified": 0.5, "seconds": 0.1},
]  # fmt: skip


def made_up_evaluation() -> Evaluation:
    """Eight images in groups of five: six correct, three proved, a fourth one by the group stage.

    Proved are 0 (by ibp), 1 and 5 (by crown-ibp); 6 and 7 are misclassified; the strongest
    perturbation breaks 2 and 3; of 2, 3 and 4 no perturbation breaks all.
    """
    y = torch.arange(8)
    after = torch.tensor([0, 1, 9, 9, 4, 5, 6, 7])
    certificates = Certificates(
        eps=0.1,
        clip=None,
        methods=("ibp", "crown-ibp"),
        correct=torch.tensor([1, 1, 1, 1, 1, 1, 0, 0], dtype=torch.bool),
        attacked=torch.tensor([0, 0, 1, 0, 0, 0, 0, 0], dtype=torch.bool),
        v=torch.zeros(1, 1, 8, 8),
        margin=torch.zeros(8),
        rows=torch.tensor([1, 1, 0, 0, 0, 1, 0, 0], dtype=torch.bool).view(8, 1).expand(8, 9),
        decided_by=torch.tensor([0, 1, -1, -1, -1, 1, -1, -1]),
        took=torch.full((8,), 0.5, dtype=torch.float64),
        seconds={"attack": 0.5, "ibp": 0.25, "crown-ibp": 12.34},
        not_fitting={"ibp": 0, "crown-ibp": 2},
        late={"ibp": 0, "crown-ibp": 1},
    )
    uap = UapBounds(
        lower=torch.tensor([3, 1]),
        upper=torch.tensor([3, 1]),
        size=torch.tensor([5, 3]),
        u=torch.zeros(2, 1, 8, 8),
        broken=torch.tensor([0, 0, 1, 1, 0, 0, 1, 1], dtype=torch.bool),
        stage=("io", "single"),
        took=torch.tensor([1.0, 0.0], dtype=torch.float64),
        seconds={"group attack": 2.0, "group stage": 1.0},
    )
    return Evaluation(
        x=torch.rand(8, 1, 8, 8), y=y, protocol=Protocol(eps=0.1, method="crown-ibp"),
        certificates=certificates, uap=uap, strongest=torch.full((1, 8, 8), 0.1),
        fooling_rate=2 / 6, predictions=(y, after), seconds=13.0,
    )  # fmt: skip


def made_up_record(**changes: Any) -> dict[str, Any]:
    """What the file of ``made_up_evaluation`` holds, but for ``changes``, without its groups."""
    record = made_up_evaluation().as_record(data="digits").to_json()
    del record["groups"]
    return record | changes
