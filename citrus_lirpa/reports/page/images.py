"""Pictures inside a page: PNG as data URIs, up to a budget of bytes."""

from __future__ import annotations

import base64
import io

import numpy as np

from ..plots import as_pixels

#: What all pictures of a page may take together, as text in the page.
BUDGET = 1_500_000


class Album:
    """Data URIs of pictures, until the budget is spent.

    Attributes:
        left: Characters that are left of the budget.
        full: Whether a picture was refused.
    """

    def __init__(self) -> None:
        self.left, self.full = BUDGET, False

    def pixels(self, image: np.ndarray) -> str | None:
        """Encode an image (C, H, W), uint8, as a data URI; None once the budget is spent."""
        from PIL import Image

        channels = np.moveaxis(image, 0, -1)
        picture = Image.fromarray(channels[:, :, 0] if channels.shape[2] == 1 else channels)
        file = io.BytesIO()
        picture.save(file, "PNG", optimize=True)
        uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        if len(uri) > self.left:
            self.full = True
            return None
        self.left -= len(uri)
        return uri

    def perturbation(self, u: np.ndarray, eps: float | None) -> str | None:
        """Encode u (C, H, W), as :func:`as_pixels` shows it."""
        return self.pixels(_bytes(as_pixels(u, eps)))

    def moved(self, image: np.ndarray, u: np.ndarray) -> str | None:
        """Encode an image with a perturbation, cut to [0, 1] to be seen."""
        return self.pixels(_bytes(image / 255 + u))


def _bytes(share: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
