"""A file in pieces of at most 15 MiB, as lent machines give them back, and the file from them.

python benchmarks/gpu/pieces.py split FILE FOLDER
python benchmarks/gpu/pieces.py join FOLDER FILE
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import click
import numpy as np

PIECE = 15 << 20


def split(file: Path, folder: Path) -> list[Path]:
    """Write the pieces of a file, and pieces.json, which says how they go together.

    The bytes of 4-byte numbers are put together by their place: those of exponents compress.
    """
    raw = file.read_bytes()
    padded = np.frombuffer(raw + bytes(-len(raw) % 4), dtype=np.uint8)
    body = b"".join(zlib.compress(plane.tobytes(), 1) for plane in padded.reshape(-1, 4).T)
    pieces = []
    for number, begin in enumerate(range(0, len(body), PIECE)):
        pieces.append(folder / f"{file.name}.{number}")
        pieces[-1].write_bytes(body[begin : begin + PIECE])
    about = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    about["pieces"] = [piece.name for piece in pieces]
    (folder / "pieces.json").write_text(json.dumps(about, indent=2) + "\n")
    return pieces


def join(folder: Path, file: Path) -> None:
    """Write the file from its pieces."""
    about = json.loads((folder / "pieces.json").read_text())
    body = b"".join((folder / name).read_bytes() for name in about["pieces"])
    planes = []
    while body:
        unpacker = zlib.decompressobj()
        planes.append(np.frombuffer(unpacker.decompress(body), dtype=np.uint8))
        body = unpacker.unused_data
    raw = np.stack(planes, axis=1).tobytes()[: about["bytes"]]
    if hashlib.sha256(raw).hexdigest() != about["sha256"]:
        raise click.ClickException(f"the pieces in {folder} are damaged; fetch them again")
    file.write_bytes(raw)


@click.command()
@click.argument("what", type=click.Choice(["split", "join"]))
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
def main(what: str, source: Path, target: Path) -> None:
    if what == "join":
        join(source, target)
        return
    target.mkdir(parents=True, exist_ok=True)
    for piece in split(source, target):
        print(f"{piece}  {piece.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
