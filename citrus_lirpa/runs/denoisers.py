"""Denoisers on the disk, which go in front of networks that are smoothed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from ..errors import expect, require
from ..formats import onnx
from ..models.diffusion import is_diffusion, load_diffusion
from ..models.layers import Shape
from ..training import checkpoint
from .networks import Network


def with_denoiser(network: Network, path: Path, sigma: float) -> Network:
    """Put a denoiser in front of a network.

    Args:
        network: The network.
        path: An ONNX file that maps noisy pixels (N, C, H, W) to pixels, a run of the method
            denoiser, or a folder of a diffusion model that diffusers saved.
        sigma: Standard deviation of the noise, in pixels; it chooses the diffusion step.

    Raises:
        InputError: It is none of them, or takes images of another shape.
        CheckpointError: The run cannot be read.
        ModelError: It does not map images to images, or cannot be read.
        DependencyError: The package that reads it is missing.
    """
    if is_diffusion(path):
        denoiser: nn.Module = load_diffusion(path, network.spec.shape, sigma)
    else:
        denoiser, shape = onnx.load_onnx(path, images=True) if onnx.is_onnx(path) else _run(path)
        require(
            shape == network.spec.shape,
            f"{path} takes images {shape}, but those of {network.spec.name} are "
            f"{network.spec.shape}",
        )
    return replace(network, model=nn.Sequential(denoiser, network.model).eval())


def _run(path: Path) -> tuple[nn.Module, Shape]:
    expected = "a run of --method denoiser, an ONNX file of images, or a folder of diffusers"
    expect(path.exists(), "the denoiser", str(path), expected)
    config, state = checkpoint.load(path)
    require(
        config.denoises,
        f"{path} is a network of the method {config.loss['name']}; train a denoiser by "
        "citrus-lirpa train --method denoiser",
    )
    denoiser, spec = checkpoint.restored(config, state, path)
    return denoiser, spec.shape
