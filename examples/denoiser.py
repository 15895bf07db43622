"""A denoiser for denoised smoothing, trained on noisy images alone, as an ONNX file.

    python examples/denoiser.py --out denoiser.onnx         # the embedded digits, seconds
    citrus-lirpa smooth runs/digits --sigma 0.25 --denoiser denoiser.onnx

It learns to take Gaussian noise off images (the mean squared error of Salman et al. 2020, Denoised
Smoothing), so it needs no classifier and serves any: the network behind it stays as it is.
``--dataset mnist --data-dir DATA`` takes other images. σ is that of ``smooth``.
"""

import argparse
from pathlib import Path

import torch
from citrus_lirpa.data import DATASETS, load
from citrus_lirpa.formats.onnx import save_onnx
from torch import Tensor, nn

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--dataset", choices=list(DATASETS), default="digits")
parser.add_argument("--data-dir", type=Path, default="data")
parser.add_argument("--sigma", type=float, default=0.25)
parser.add_argument("--steps", type=int, default=1000)
args = parser.parse_args()


class Denoiser(nn.Module):
    """Add to an image what takes off the noise that convolutions find in it."""

    def __init__(self, channels: int, width: int = 32):
        super().__init__()
        self.correction = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.correction(x)


torch.manual_seed(0)
torch.set_num_threads(1)
images = load(args.dataset, train=True, data_dir=args.data_dir)
denoiser = Denoiser(channels=DATASETS[args.dataset].shape[0])
optimiser = torch.optim.Adam(denoiser.parameters(), lr=1e-3)
for _ in range(args.steps):
    x = images.pixels(torch.randint(len(images), (128,)))
    noisy = x + args.sigma * torch.randn_like(x)
    loss = (denoiser(noisy) - x).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print(f"mean squared error {loss.item():.4f}, of the noise itself {args.sigma**2:.4f}")
save_onnx(denoiser, DATASETS[args.dataset].shape, args.out)
print(f"denoiser: {args.out}")
