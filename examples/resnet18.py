"""torchvision's ResNet-18 trained on cross-input boxes: residual graphs through BoundedNet.

    python examples/resnet18.py                   # the embedded digits, half a minute

Whatever auto_LiRPA traces can be trained: convolutions, BatchNorm, ReLU, additions and pooling by
averages. Maximum pooling has loose bounds, so the stem for small images leaves it out, as usual.
A few steps show that the bounds tighten; a useful network takes many epochs, and a longer ε ramp.
"""

import argparse

import citrus_lirpa  # before auto_LiRPA: makes it work with current torch and NumPy
import torch
from citrus_lirpa import PGD, BoundedNet, Citrus, shi_initialise, shi_regulariser
from citrus_lirpa.data import load
from torch import nn
from torchvision.models import resnet18

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--eps", type=float, default=0.02)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--batch", type=int, default=8)
args = parser.parse_args()

torch.manual_seed(0)
torch.set_num_threads(1)
train, test = (load("digits", train=part, data_dir="data") for part in (True, False))

model = resnet18(num_classes=10, zero_init_residual=True)
model.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
model.maxpool = nn.Identity()

net = BoundedNet(model, torch.zeros(2, 1, 8, 8))
shi_initialise(net)  # without it, interval bounds of twenty layers overflow at first
citrus = Citrus(tau_ratio=0.4, attack=PGD(steps=2))
optimiser = torch.optim.Adam(model.parameters(), lr=5e-4)


def bound_loss() -> float:
    """The CITRUS loss at the full ε of test images, by their own BatchNorm statistics."""
    x, y = test.pixels(slice(0, 8)), test.labels[:8]
    return citrus(net, x, y, args.eps).item()


net.train()
before = bound_loss()
for step in range(args.steps):
    index = torch.randint(len(train), (args.batch,))
    eps = args.eps * (step + 1) / args.steps
    terms = citrus(net, train.pixels(index), train.labels[index], eps)
    bounds = terms.bounds or net.bound(terms.box)
    penalty = 0.5 * shi_regulariser(bounds.inputs, bounds.preactivations)
    optimiser.zero_grad()
    (terms + penalty).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimiser.step()
    if step % 4 == 3:
        print(f"step {step + 1}: eps {eps:.4f}, loss {terms.item():.2f}")

weights, after = sum(p.numel() for p in model.parameters()), bound_loss()
print(
    f"citrus_lirpa {citrus_lirpa.__version__}: ResNet-18, {weights:,} weights, {net.relus} ReLUs; "
    f"bound on the loss at eps {args.eps}: {before:.4g} before, {after:.4g} after"
)
