"""CITRUS in an auto_LiRPA training script: their wrapper, scheduler and loop, our loss.

    python examples/lirpa_training.py                  # the embedded digits, seconds
    python examples/lirpa_training.py --loss ibp       # what the script did before
    python examples/lirpa_training.py --net bounded    # our BoundedNet instead of theirs

The script follows auto_LiRPA's examples/vision/simple_training.py. What CITRUS changes is
one line: the robust loss.
"""

import argparse

import citrus_lirpa  # before auto_LiRPA: makes it work with current torch and NumPy
import torch
from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm
from auto_LiRPA.eps_scheduler import SmoothedScheduler
from citrus_lirpa import BoundedNet, Citrus, certify_uap
from citrus_lirpa.data import load
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--loss", choices=["citrus", "ibp"], default="citrus")
parser.add_argument("--net", choices=["lirpa", "bounded"], default="lirpa")
parser.add_argument("--eps", type=float, default=0.1)
parser.add_argument("--epochs", type=int, default=40)
args = parser.parse_args()

torch.manual_seed(0)
torch.set_num_threads(1)
train, test = (load("digits", train=part, data_dir="data") for part in (True, False))
loader = DataLoader(
    TensorDataset(train.pixels(slice(None)), train.labels),
    batch_size=64,
    shuffle=True,
    drop_last=True,
)

# Step 1 and 2: the model, wrapped by auto_LiRPA as ever.
model = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
)
example = torch.zeros(2, 1, 8, 8)
net = BoundedModule(model, example) if args.net == "lirpa" else BoundedNet(model, example)

# Step 3: the loss, and their optimiser and ε scheduler.
citrus = Citrus(tau_ratio=0.4)
optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
scheduler = SmoothedScheduler(args.eps, "start=2,length=20")


def ibp_loss(x, y, eps):
    """What the script did before: robust cross-entropy on the whole ε-box."""
    box = BoundedTensor(x, PerturbationLpNorm(x_L=(x - eps).clamp(0), x_U=(x + eps).clamp(max=1)))
    logits = net(box)
    if eps == 0:
        return nn.functional.cross_entropy(logits, y)
    identity = torch.eye(10)
    wrong = ~identity[y].bool()
    c = (identity[y].unsqueeze(1) - identity)[wrong].view(len(x), 9, 10)
    lower, _ = net.compute_bounds(C=c, method="IBP")
    worst = torch.cat([torch.zeros(len(x), 1), lower], dim=1)
    return nn.functional.cross_entropy(-worst, torch.zeros(len(x), dtype=torch.long))


for epoch in range(1, args.epochs + 1):
    net.train()
    scheduler.train()
    scheduler.set_epoch_length(len(loader))
    scheduler.step_epoch(verbose=False)
    for x, y in loader:
        scheduler.step_batch(verbose=False)
        eps = scheduler.get_eps()
        optimiser.zero_grad()
        loss = citrus(net, x, y, eps) if args.loss == "citrus" else ibp_loss(x, y, eps)
        loss.backward()
        optimiser.step()
    if epoch % 10 == 0:
        print(f"epoch {epoch}: eps {eps:.3f}, loss {loss.item():.3f}")

x, y = test.pixels(slice(None)), test.labels
net.eval()
with torch.no_grad():
    accuracy = (model(x).argmax(1) == y).float().mean()
uap = certify_uap(net, x, y, args.eps, group_size=5)
print(
    f"citrus_lirpa {citrus_lirpa.__version__}: standard accuracy {accuracy:.1%}, certified UAP "
    f"accuracy {uap.certified_accuracy:.1%} to {uap.attacked_accuracy:.1%}"
)
