"""Arrays, tensors of any number type, Datasets and DataLoaders as data of scripts."""

import numpy as np
import pytest
import torch
from networks import images, small_net, table_net
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from citrus_lirpa import (
    PGD,
    BoundedNet,
    GroupAttack,
    Protocol,
    SgdUap,
    certify,
    certify_uap,
    evaluate,
    fit,
)
from citrus_lirpa.data import Split, as_split
from citrus_lirpa.errors import InputError
from citrus_lirpa.losses import Ibp
from citrus_lirpa.training.config import resolve

EPS = 0.05
SHORT = GroupAttack(steps=2)


@pytest.fixture(scope="module")
def known():
    """A network, images of whole grey levels, their labels, and what is certified of them."""
    torch.manual_seed(0)
    net = small_net()
    x, _ = images(net, 12)
    x = (x * 255).round() / 255
    y = net(x).argmax(1)
    return net, x, y, certify(net, x, y, EPS)


class Pictures(Dataset):
    """Pillow's images and Python's numbers."""

    def __init__(self, x, y):
        self.x, self.y = (x[:, 0] * 255).round().byte().numpy(), y.tolist()

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return Image.fromarray(self.x[i]), self.y[i]


class Stream(IterableDataset):
    def __init__(self, x, y):
        self.pairs = list(zip(x, y, strict=True))

    def __iter__(self):
        return iter(self.pairs)


PAIRS = {
    "float64 tensors": lambda x, y: (x.double(), y),
    "float32 arrays": lambda x, y: (x.numpy(), y.numpy()),
    "float64 arrays, int32 labels": lambda x, y: (x.double().numpy(), y.int().numpy()),
    "bytes": lambda x, y: ((x * 255).round().byte(), y.byte()),
    "arrays of bytes": lambda x, y: ((x * 255).round().byte().numpy(), y.numpy().astype("u1")),
    "int16 labels": lambda x, y: (x, y.short()),
    "reversed arrays": lambda x, y: (x.numpy()[::-1][::-1], y.numpy()[::-1][::-1]),
}
SETS = {
    "dataset": TensorDataset,
    "pictures": Pictures,
    "loader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=5),
    "loader that drops and shuffles": lambda x, y: DataLoader(
        TensorDataset(x, y), batch_size=5, drop_last=True, shuffle=True
    ),
    "stream": lambda x, y: DataLoader(Stream(x, y), batch_size=5),
    "subset": lambda x, y: DataLoader(Subset(TensorDataset(x, y), range(len(y))), batch_size=7),
}


@pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS)
def test_certificates_and_attacks_take_numbers_of_any_type(known, make):
    net, x, y, wanted = known
    given = make(x, y)
    assert certify(net, *given, EPS).verdicts() == wanted.verdicts()
    torch.manual_seed(1)
    uap = certify_uap(net, *given, EPS, group_size=4, attack=SHORT)
    torch.manual_seed(1)
    assert torch.equal(uap.lower, certify_uap(net, x, y, EPS, group_size=4, attack=SHORT).lower)
    assert PGD(steps=2)(net, *given, EPS).dtype == torch.float32
    assert SgdUap(epochs=1)(net, *given, EPS).u.dtype == torch.float32
    groups = [part.reshape(3, 4, *part.shape[1:]) for part in given]
    assert SHORT(net, *groups, EPS).u.shape == (3, 1, 1, 4, 4)


@pytest.mark.parametrize("make", SETS.values(), ids=SETS)
def test_data_sets_become_splits(known, make):
    _, x, y, _ = known
    split = as_split(make(x, y))
    assert torch.equal(split.pixels(slice(None)), x) and torch.equal(split.labels, y)


@pytest.mark.parametrize("name", ["dataset", "pictures", "loader that drops and shuffles"])
def test_certificates_and_evaluations_take_data_sets(known, name):
    net, x, y, wanted = known
    data = SETS[name](x, y)
    found = evaluate(net, data, None, Protocol(eps=EPS, group_size=4, method="alpha-crown"))
    assert torch.equal(found.certificates.certified, wanted.certified)
    if not isinstance(data, Pictures):  # (H, W), of which only as_split makes (1, H, W)
        assert certify(net, data, None, EPS).verdicts() == wanted.verdicts()
        found = certify_uap(net, data, None, EPS, group_size=4, attack=SHORT)
        assert int(found.size.sum()) == 12


def test_a_sampler_chooses(known):
    _, x, y, _ = known
    chosen = torch.utils.data.SubsetRandomSampler(range(5))
    loader = DataLoader(TensorDataset(x, y), batch_size=2, sampler=chosen, drop_last=True)
    assert sorted(as_split(loader).images.flatten(1).sum(1).tolist()) == sorted(
        x[:5].flatten(1).sum(1).tolist()
    )


def test_tables_are_evaluated_as_rows():
    net, x, y = table_net(5)
    protocol = Protocol(eps=torch.tensor([0.1, 0, 0.01, 0, 0.2]), group_size=3)
    found = evaluate(net, (x.numpy(), y.numpy()), None, protocol)
    assert found.strongest.shape == (5,) and float(found.strongest[[1, 3]].abs().max()) == 0
    wanted = certify(net, x, y, protocol.eps, method="bab")
    assert torch.equal(found.certificates.certified, wanted.certified)


@pytest.mark.parametrize("make", SETS.values(), ids=SETS)
def test_fit_takes_data_sets(make):
    x = (torch.rand(40, 1, 8, 8) * 255).round() / 255
    y = torch.arange(40) % 10
    settings = resolve(
        preset="digits",
        method="ibp",
        overrides=["train.epochs=1", "train.batch_size=10", "train.ramp_length=0.5"],
    )
    weights = []
    for data in (Split(x, y), make(x, y)):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        fit(BoundedNet(model, x[:2]), Ibp(), data, settings)
        weights.append(model[1].weight.detach())
    assert torch.equal(*weights)


class Uneven(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        return torch.zeros(1, 4 + i, 4), 0


class Failing(Uneven):
    def __getitem__(self, i):
        raise KeyError("lost")


WRONG = {
    "no data": (7, r"data is a int; expected \(inputs, labels\)"),
    "three parts": ((1, 2, 3), "cannot be read"),
    "shapes": (Uneven(), r"inputs have the shapes \(1, 4, 4\) and \(1, 5, 4\)"),
    "fails": (Failing(), "Failing cannot be read: KeyError"),
    "no pairs": (TensorDataset(torch.zeros(3, 1, 4, 4)), "cannot be read"),
    "sixteen bits": ((np.full((4, 4, 4), 900, "u2"), np.zeros(4, int)), "scale them"),
    "nan": ((np.full((4, 4, 4), np.nan), np.zeros(4, int)), "NaN"),
    "labels": ((np.zeros((4, 4, 4)), np.zeros(4)), "labels are float64"),
    "fewer labels": ((np.zeros((4, 4, 4)), np.zeros(3, int)), "4 images and 3 labels"),
}


@pytest.mark.parametrize(("data", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_data_is_refused_in_one_line(data, message):
    with pytest.raises(InputError, match=message) as refused:
        as_split(data)
    assert "\n" not in str(refused.value)
