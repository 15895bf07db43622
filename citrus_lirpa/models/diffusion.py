"""Diffusion models of the package diffusers, as denoisers of a single step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError, expect_known, foreign, require
from ..imports import import_optional
from .layers import Shape

#: What the network gives, by the scheduler's name of it: factors (a, b) of the noisy image and of
#: the output in the clean image, at the share ᾱ of the image in the noisy one.
_PREDICTIONS = {
    "epsilon": lambda share: (share**-0.5, -((1 / share - 1) ** 0.5)),
    "v_prediction": lambda share: (share**0.5, -((1 - share) ** 0.5)),
    "sample": lambda share: (0.0, 1.0),
}


class OneShot(nn.Module):
    """The clean image that a diffusion model sees in a noisy one, in one step.

    Pixels become 2x - 1, and noise of σ in them 2σ. At the step t where √((1 - ᾱ)/ᾱ) is nearest to
    2σ, √ᾱ (2x - 1) is what the model was trained on; its clean image is clipped to the pixels.

    Source: Carlini et al. 2023, (Certified!!) Adversarial Robustness for Free!, algorithm 1.

    Args:
        unet: ``unet(images, t).sample`` is the model's answer.
        alphas: (T,) ᾱ of each step.
        prediction: What the answer is: epsilon, v_prediction or sample.
        sigma: Standard deviation σ of the noise, in pixels.

    Raises:
        InputError: σ is beyond the noise of all steps.
        ConfigError: The prediction is unknown.
    """

    step: Tensor
    factors: Tensor

    def __init__(self, unet: nn.Module, alphas: Tensor, prediction: str, sigma: float):
        super().__init__()
        expect_known("prediction_type", prediction, _PREDICTIONS)
        levels = (1 / alphas.double() - 1).sqrt() / 2
        most = float(levels.max())
        require(
            sigma <= most,
            f"sigma is {sigma:g}; the noise of this diffusion model ends at {most:.3g}",
        )
        step = int((levels.clamp(min=1e-12) / sigma).log().abs().argmin())
        share = float(alphas[step])
        self.unet = unet
        self.register_buffer("step", torch.tensor(step))
        factors = (math.sqrt(share), *_PREDICTIONS[prediction](share))
        self.register_buffer("factors", torch.tensor(factors))

    def forward(self, x: Tensor) -> Tensor:
        """Return clean pixels (N, C, H, W) of noisy ones."""
        scale, of_noisy, of_answer = self.factors
        noisy = scale * (2 * x - 1)
        answer = self.unet(noisy, self.step).sample[:, : x.shape[1]]  # variances may follow
        return ((of_noisy * noisy + of_answer * answer).clamp(-1, 1) + 1) / 2


def is_diffusion(path: Path) -> bool:
    """Return whether a folder is a pipeline that diffusers saved."""
    return (path / "unet" / "config.json").is_file()


def load_diffusion(path: Path, shape: Shape, sigma: float) -> OneShot:
    """Read a diffusion model of images that diffusers saved.

    Args:
        path: The folder of a pipeline, with unet/ (a UNet2DModel) and scheduler/. Nothing is
            fetched, and no code in it is run.
        shape: (C, H, W) of the images.
        sigma: Standard deviation of the noise, in pixels.

    Raises:
        DependencyError: diffusers is missing.
        InputError: It is of other images, or of less noise.
        ModelError: It cannot be read or used.
    """
    diffusers = import_optional("diffusers", "pip install 'citrus-lirpa[diffusion]'")
    with foreign(ModelError, f"{path} cannot be read by diffusers"):
        config = json.loads((path / "unet" / "config.json").read_text("utf-8"))
        _check(config, path, shape)
        unet = diffusers.UNet2DModel.from_pretrained(
            path, subfolder="unet", local_files_only=True, low_cpu_mem_usage=False
        )
        scheduler = diffusers.DDPMScheduler.from_pretrained(
            path, subfolder="scheduler", local_files_only=True
        )
    prediction = scheduler.config.prediction_type
    denoiser = OneShot(unet, scheduler.alphas_cumprod, prediction, sigma).eval()
    _try(denoiser, path, shape)
    return denoiser


def _check(config: dict[str, Any], path: Path, shape: Shape) -> None:
    kind, size = config["_class_name"], config["sample_size"]
    require(
        kind == "UNet2DModel",
        f"{path}/unet is a {kind}; expected a UNet2DModel, of images alone",
        ModelError,
    )
    sides = (size, size) if isinstance(size, int) else tuple(size or shape[1:])
    taken = (config["in_channels"], *sides)
    require(taken == shape, f"{path} takes images {taken}, but those of the network are {shape}")
    out, channels = config["out_channels"], shape[0]
    require(
        out in (channels, 2 * channels),
        f"{path} gives {out} channels; expected {channels}, or {2 * channels} with variances",
        ModelError,
    )


@torch.no_grad()
def _try(denoiser: OneShot, path: Path, shape: Shape) -> None:
    with foreign(ModelError, f"{path} does not take images {shape}"):
        denoised = denoiser(torch.zeros(1, *shape))
    images = tuple(denoised.shape[1:]) == shape and bool(denoised.isfinite().all())
    require(images, f"{path} gives no finite images {shape}")
