"""Networks: the architectures of the papers, users' own, and the layers around them."""

from .architectures import (
    MODELS,
    PLAIN,
    build_model,
    cnn5,
    cnn7,
    cnn7_narrow,
    convsmall,
    denoiser,
    mlp,
)
from .layers import Behind, Normalise, Shape, core_of, leading_normalise
from .users import own

__all__ = [
    "MODELS", "PLAIN", "Behind", "Normalise", "Shape", "build_model", "cnn5", "cnn7", "cnn7_narrow",
    "convsmall", "core_of", "denoiser", "leading_normalise", "mlp", "own",
]  # fmt: skip
