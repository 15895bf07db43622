"""Images of a Hugging Face ``datasets.Dataset`` as training data, and a certificate for the rest.

    pip install datasets
    python examples/huggingface_images.py         # the embedded digits as a Dataset, seconds

Nothing is downloaded here; with a network, ``datasets.load_dataset("mnist")`` gives a Dataset with
the same two columns. Pixels stay in [0, 1]: normalise inside the model, so that ε is in pixels.
"""

import argparse

import citrus_lirpa  # before auto_LiRPA: makes it work with current torch and NumPy
import datasets
import torch
from citrus_lirpa import BoundedNet, Citrus, certify_uap
from citrus_lirpa.data import load
from torch import nn
from torch.utils.data import DataLoader

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--eps", type=float, default=0.1)
parser.add_argument("--epochs", type=int, default=20)
args = parser.parse_args()


def as_dataset(train: bool) -> datasets.Dataset:
    """The digits with the columns that image data sets on the hub have."""
    split = load("digits", train=train, data_dir="data")
    columns = {"image": list(split.images[:, 0].numpy()), "label": split.labels.tolist()}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(num_classes=10))
    return datasets.Dataset.from_dict(columns, features=features)


def collate(rows: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels (B, C, H, W) in [0, 1] and labels (B,) of rows in torch's format, which are bytes."""
    x = torch.stack([row["image"] for row in rows]).float() / 255
    return x, torch.stack([row["label"] for row in rows])


torch.manual_seed(0)
torch.set_num_threads(1)
train, test = (as_dataset(part).with_format("torch") for part in (True, False))
loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True, collate_fn=collate)

model = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
net, citrus = BoundedNet(model, torch.zeros(2, 1, 8, 8)), Citrus(tau_ratio=0.4)
optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)

net.train()
for epoch in range(args.epochs):
    eps = args.eps * min(1.0, 1.5 * epoch / args.epochs)
    for x, y in loader:
        terms = citrus(net, x, y, eps)
        optimiser.zero_grad()
        terms.backward()
        optimiser.step()

net.eval()
x, y = collate([test[i] for i in range(len(test))])
with torch.no_grad():
    accuracy = (model(x).argmax(1) == y).float().mean()
uap = certify_uap(net, x, y, args.eps, group_size=5, time_limit=0.1)
print(
    f"citrus_lirpa {citrus_lirpa.__version__}, datasets {datasets.__version__}: standard accuracy "
    f"{accuracy:.1%}, certified UAP accuracy {uap.certified_accuracy:.1%}"
)
