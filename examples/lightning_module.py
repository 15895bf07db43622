"""CITRUS in a PyTorch Lightning module: their Trainer and loop, our loss and certificates.

pip install lightning
python examples/lightning_module.py           # the embedded digits, seconds
"""

import argparse

import citrus_lirpa  # before auto_LiRPA: makes it work with current torch and NumPy
import lightning
import torch
from citrus_lirpa import BoundedNet, Citrus, certify_uap
from citrus_lirpa.data import load
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--eps", type=float, default=0.1)
parser.add_argument("--epochs", type=int, default=30)
args = parser.parse_args()


class CertifiedModule(lightning.LightningModule):
    """Any classifier of pixels in [0, 1]; ε rises over the first two thirds of the steps."""

    def __init__(self, model: nn.Module, example: torch.Tensor, eps: float):
        super().__init__()
        self.model, self.loss = model, Citrus(tau_ratio=0.4)
        self.example, self.eps = example, eps

    def on_fit_start(self):
        # Only now is the model on its device. The net shares its weights and is no submodule.
        self.net = BoundedNet(self.model, self.example.to(self.device))

    def training_step(self, batch, _):
        self.net.train()
        share = 1.5 * self.global_step / self.trainer.estimated_stepping_batches
        terms = self.loss(self.net, *batch, self.eps * min(1.0, share))
        self.log("boxes certified", terms.certified())
        return terms

    def validation_step(self, batch, _):
        x, y = batch
        self.net.eval()
        uap = certify_uap(self.net, x, y, self.eps, group_size=5, time_limit=0.1)
        accuracy = (self.net(x).argmax(1) == y).float().mean()
        self.log_dict({"accuracy": accuracy, "UCert": uap.certified_accuracy})

    def configure_optimizers(self):
        return torch.optim.Adam(self.model.parameters(), lr=1e-3)


lightning.seed_everything(0, verbose=False)
torch.set_num_threads(1)
train, test = (load("digits", train=part, data_dir="data") for part in (True, False))
training = DataLoader(
    TensorDataset(train.pixels(slice(None)), train.labels),
    batch_size=64,
    shuffle=True,
    drop_last=True,
)
testing = DataLoader(TensorDataset(test.pixels(slice(None)), test.labels), batch_size=400)

model = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
)
trainer = lightning.Trainer(
    max_epochs=args.epochs,
    accelerator="cpu",
    gradient_clip_val=10.0,
    inference_mode=False,  # certificates need gradients
    num_sanity_val_steps=0,
    check_val_every_n_epoch=args.epochs,
    logger=False,
    enable_checkpointing=False,
    enable_model_summary=False,
    enable_progress_bar=False,
)
trainer.fit(CertifiedModule(model, torch.zeros(2, 1, 8, 8), args.eps), training, testing)
found = trainer.callback_metrics
print(
    f"citrus_lirpa {citrus_lirpa.__version__}, lightning {lightning.__version__}: standard "
    f"accuracy {found['accuracy']:.1%}, certified UAP accuracy {found['UCert']:.1%}"
)
