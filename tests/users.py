"""What users have of their own: a folder of pictures."""

from pathlib import Path

import numpy as np
from PIL import Image


def photos(colours: dict[str, int], **counts: int) -> None:
    """Write pictures of 8x8 into ``photos``: so many a class in each part, bright in one colour."""
    rng = np.random.default_rng(0)
    for part, count in counts.items():
        for name, channel in colours.items():
            folder = Path("photos", part, name)
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 90, (8, 8, 3), dtype=np.uint8)
                pixels[..., channel] += 130
                Image.fromarray(pixels).save(folder / f"{i}.png")
