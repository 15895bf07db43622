"""CIFAR-10 in less space: lossless WebP, 17 MB a file, since lent machines take 64 MiB at a time.

    python benchmarks/gpu/cifar.py pack DATA PACKED data_batch_1 test_batch
    python benchmarks/gpu/cifar.py unpack PACKED DATA

What is unpacked are the very files of torchvision's layout, byte for byte.
"""

from __future__ import annotations

import lzma
from pathlib import Path

import click
import numpy as np
from PIL import Image

FOLDER = "cifar-10-batches-py"
META = "batches.meta"
#: Images of a file, as 100 rows of 100, and the bytes of their pixels.
SIDE, PIXELS = 100, 10_000 * 3072


def pack(data: Path, packed: Path, name: str) -> None:
    """Write the pixels of a file as a picture, and what is around them as NAME.frame.xz."""
    raw = (data / FOLDER / name).read_bytes()
    # a pickle of Python 2: T and its length stand before a string of bytes
    begin = raw.index(b"T" + PIXELS.to_bytes(4, "little")) + 5
    pixels = np.frombuffer(raw[begin : begin + PIXELS], dtype=np.uint8)
    images = pixels.reshape(SIDE, SIDE, 3, 32, 32).transpose(0, 3, 1, 4, 2)
    picture = Image.fromarray(np.ascontiguousarray(images).reshape(32 * SIDE, 32 * SIDE, 3))
    picture.save(packed / f"{name}.webp", lossless=True, quality=75, method=4)
    frame = begin.to_bytes(8, "little") + raw[:begin] + raw[begin + PIXELS :]
    (packed / f"{name}.frame.xz").write_bytes(lzma.compress(frame))


def unpack(packed: Path, data: Path, name: str) -> None:
    """Write the file that ``pack`` was given."""
    frame = lzma.decompress((packed / f"{name}.frame.xz").read_bytes())
    begin, frame = int.from_bytes(frame[:8], "little"), frame[8:]
    picture = np.asarray(Image.open(packed / f"{name}.webp").convert("RGB"))
    images = picture.reshape(SIDE, 32, SIDE, 32, 3).transpose(0, 2, 4, 1, 3)
    (data / FOLDER / name).write_bytes(frame[:begin] + images.tobytes() + frame[begin:])


@click.command()
@click.argument("what", type=click.Choice(["pack", "unpack"]))
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1)
def main(what: str, source: Path, target: Path, names: tuple[str, ...]) -> None:
    if what == "pack":
        target.mkdir(parents=True, exist_ok=True)
        (target / META).write_bytes((source / FOLDER / META).read_bytes())
        for name in names:
            pack(source, target, name)
        return
    (target / FOLDER).mkdir(parents=True, exist_ok=True)
    (target / FOLDER / META).write_bytes((source / META).read_bytes())
    for file in sorted(source.glob("*.webp")):
        unpack(source, target, file.stem)


if __name__ == "__main__":
    main()
