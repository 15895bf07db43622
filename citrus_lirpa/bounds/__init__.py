"""Bounds of classifiers over boxes of pixels, through auto_LiRPA."""

from .box import Box
from .net import METHODS, BoundedNet, as_bounded_net

__all__ = ["METHODS", "BoundedNet", "Box", "as_bounded_net"]
