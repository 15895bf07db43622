"""The statement of a file of proofs: of which network and images it is, and what it claims."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from .network import Array, Network, require

FORMAT = "citrus-lirpa proofs 2"


class Statement:
    """What a file states, once it is known to be of the network and images that it names.

    Args:
        arrays: All arrays of the file.
        network: The network that is checked.

    Attributes:
        eps: The radius, one number or (C, H, W).
        clip: The range of pixels, or None.
        on_device: Whether margins are those that a device computes in float32.
        conditions: Radius, SHA-256 of its map, clip and arithmetic, as they are stated.
        first: The number of the first image in its data set.
        labels: Of each image.
        pixels: (N, C, H, W) the images.
        same: Of each image, the first that equals it, which stands for it.
        certified: Numbers of the images that are claimed to be certified, from 0.
        groups: First image, size and claimed number of safe images of each group.

    Raises:
        Refused: The file is of another format, network or images than stated, or states nonsense.
    """

    def __init__(self, arrays: Mapping[str, Array], network: Network):
        stated = json.loads(str(arrays["statement"]))
        require(stated["format"] == FORMAT, f"its format is not {FORMAT!r}")
        require(stated["network"] == network.hash, "it is of another network (SHA-256)")
        arithmetic = stated.get("arithmetic", "real")
        require(arithmetic in ("real", "float32"), f"its arithmetic is {arithmetic!r}")
        self.on_device = arithmetic == "float32"
        eps, hashed, clip = float(stated["eps"]), stated.get("eps_map"), stated["clip"]
        require(0 <= eps < np.inf, f"eps is {eps}")
        self.eps = eps if hashed is None else _map(arrays["eps_map"], hashed, eps, network.shape)
        self.clip = None if clip is None else (float(clip[0]), float(clip[1]))
        self.conditions = eps, hashed, self.clip, arithmetic
        self.first, self.labels = int(stated["first"]), [int(y) for y in stated["labels"]]
        self.certified, self.groups = stated["certified"], stated["groups"]
        self.pixels = arrays["pixels"]
        require(len(self.pixels) == len(self.labels), "it has other numbers of images and labels")
        found = [hashlib.sha256(p.astype("<f4").tobytes()).hexdigest() for p in self.pixels]
        for i, (mine, wanted) in enumerate(zip(found, stated["images"], strict=True)):
            require(mine == wanted, f"image {self.first + i}: its pixels are others (SHA-256)")
        first: dict[Any, int] = {}
        self.same = [
            first.setdefault((p.tobytes(), y), i)
            for i, (p, y) in enumerate(zip(self.pixels, self.labels, strict=True))
        ]
        shape, classes = network.shape, network.counts[network.output]
        require(self.pixels.shape[1:] == shape, f"images are not of the network's shape {shape}")
        require(all(0 <= y < classes for y in self.labels), "a label is no class")


def _map(array: Array, hashed: str, eps: float, shape: tuple[int, ...]) -> Array:
    """Return the map of eps, which is to have this hash and shape, and eps as its largest."""
    found = array.astype("<f8")
    mine = hashlib.sha256(found.tobytes()).hexdigest()
    require(mine == hashed, "its map of eps is another (SHA-256)")
    require(found.shape == shape, f"its map of eps is not of the network's shape {shape}")
    require((found >= 0).all() and found.max() == eps, "its map of eps is not from 0 to eps")
    return found
