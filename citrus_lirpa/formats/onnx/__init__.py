"""ONNX files: networks read into PyTorch layers or onto flat vectors, and written."""

from .reading import INSTALL_HINT, SUFFIX, SUFFIXES, is_onnx, load_onnx
from .writing import exported, save_onnx

__all__ = ["INSTALL_HINT", "SUFFIX", "SUFFIXES", "exported", "is_onnx", "load_onnx", "save_onnx"]
