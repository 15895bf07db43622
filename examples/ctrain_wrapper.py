"""CITRUS behind the interface of CTRAIN's model wrappers, for pipelines that are built on them.

    python examples/ctrain_wrapper.py             # the embedded digits, seconds

A wrapper takes a model and its settings, ``train_model`` takes a loader, ``evaluate`` returns
(standard, certified, adversarial) accuracy. Loaders carry ``normalised``, ``mean``, ``std``,
``min`` and ``max``, as CTRAIN's do; ε is in pixels, and the data may be normalised. Certified and
adversarial accuracy are of groups of five images that share one perturbation.
"""

import argparse

import citrus_lirpa  # before auto_LiRPA: makes it work with current torch and NumPy
import torch
from auto_LiRPA import BoundedModule
from citrus_lirpa import BoundedNet, Citrus, certify_uap, shi_initialise, shi_regulariser
from citrus_lirpa.data import load
from citrus_lirpa.models import Normalise
from citrus_lirpa.training.schedules import ramp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class CitrusModelWrapper(nn.Module):
    """One model, its BoundedModule and its optimiser, trained by CITRUS."""

    def __init__(
        self,
        model: nn.Module,
        input_shape: tuple[int, ...],
        eps: float,
        num_epochs: int,
        *,
        tau_ratio: float = 0.4,
        lr: float = 5e-4,
        warm_up_epochs: float = 1,
        ramp_up_epochs: float = 70,
        gradient_clip: float = 10,
        shi_reg_weight: float = 0.5,
        device: str = "cpu",
    ):
        super().__init__()
        self.original_model, self.eps, self.num_epochs = model.to(device), eps, num_epochs
        self.bounded_model = BoundedModule(model, torch.zeros(2, *input_shape, device=device))
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        self.tau_ratio, self.gradient_clip = tau_ratio, gradient_clip
        self.ramp_start, self.ramp_length = 1 + warm_up_epochs, ramp_up_epochs
        self.shi_reg_weight, self.device = shi_reg_weight, device

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bounded_model(x)

    def train_model(self, train_loader: DataLoader) -> nn.Module:
        """Train to the end of the schedule; returns the BoundedModule."""
        eps, clip = self._units(train_loader)
        net, citrus = BoundedNet(self.bounded_model), Citrus(self.tau_ratio, clip=clip)
        shi_initialise(net)
        net.train()
        for step in range(self.num_epochs * len(train_loader)):
            if step % len(train_loader) == 0:
                batches = iter(train_loader)
            share = ramp(
                "smoothed",
                step,
                batches=len(train_loader),
                start=self.ramp_start,
                length=self.ramp_length,
            )
            x, y = (part.to(self.device) for part in next(batches))
            terms = citrus(net, x, y, eps * share)
            bounds = terms.bounds or net.bound(terms.box)
            penalty = (1 - share) * shi_regulariser(bounds.inputs, bounds.preactivations)
            self.optimizer.zero_grad()
            (terms + self.shi_reg_weight * penalty).backward()
            nn.utils.clip_grad_norm_(self.original_model.parameters(), self.gradient_clip)
            self.optimizer.step()
        return self.bounded_model

    def evaluate(self, test_loader: DataLoader) -> tuple[float, float, float]:
        """Standard, certified UAP and attacked UAP accuracy, judged on pixels in [0, 1]."""
        parts = [(x.to(self.device), y.to(self.device)) for x, y in test_loader]
        x, y = (torch.cat(part) for part in zip(*parts, strict=True))
        model = self.original_model.eval()
        if test_loader.normalised:
            normalise = Normalise(test_loader.mean.tolist(), test_loader.std.tolist())
            normalise = normalise.to(self.device)
            model = nn.Sequential(normalise, model).eval()
            x = x * normalise.std + normalise.mean
        with torch.no_grad():
            accuracy = (model(x).argmax(1) == y).float().mean().item()
        uap = certify_uap(BoundedNet(model, x[:2]), x, y, self.eps, time_limit=0.1)
        return accuracy, uap.certified_accuracy, uap.attacked_accuracy

    def _units(self, loader: DataLoader):
        """ε and the valid range in the units of the loader's images."""
        eps, clip = torch.tensor(self.eps, device=self.device), (loader.min, loader.max)
        if loader.normalised:
            shape = (-1, 1, 1)
            std = torch.as_tensor(loader.std, device=self.device).view(shape)
            clip = tuple(torch.as_tensor(end, device=self.device).view(shape) for end in clip)
            eps = eps / std
        return eps, clip


def digits_loader(train: bool, batch_size: int) -> DataLoader:
    """Normalised digits with the attributes that CTRAIN's loaders have."""
    split, mean, std = load("digits", train=train, data_dir="data"), 0.3, 0.38
    x = (split.pixels(slice(None)) - mean) / std
    data = TensorDataset(x, split.labels)
    loader = DataLoader(data, batch_size=batch_size, shuffle=train, drop_last=train)
    loader.normalised, loader.mean, loader.std = True, torch.tensor([mean]), torch.tensor([std])
    loader.min, loader.max = torch.tensor([-mean / std]), torch.tensor([(1 - mean) / std])
    return loader


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 100), nn.ReLU()),
        *(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)),
    )
    wrapper = CitrusModelWrapper(
        *(network, (1, 8, 8), args.eps, args.epochs),
        lr=2e-3,
        warm_up_epochs=1,
        ramp_up_epochs=0.6 * args.epochs,
    )
    wrapper.train_model(digits_loader(True, 64))
    standard, certified, attacked = wrapper.evaluate(digits_loader(False, 400))
    print(
        f"citrus_lirpa {citrus_lirpa.__version__}: standard accuracy {standard:.1%}, certified UAP "
        f"accuracy {certified:.1%} to {attacked:.1%}"
    )
