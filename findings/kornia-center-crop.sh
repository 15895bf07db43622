#!/usr/bin/env bash
# kornia's center_crop gives pixels that are not in the image where the margin is odd.
#
# kornia.geometry.center_crop takes the crop by a warp. Where the image is larger than the crop by an odd number, the middle of
# the crop lies between two pixels, and each value is the mean of two or of four: stripes of 0 and 1 become grey. With
# mode="nearest" some pixels come twice and others not at all. A network is then judged on other images than it was trained
# on, if these were cropped elsewhere. Even margins are exact but for rounding, and kornia.augmentation.CenterCrop takes whole
# pixels.
#
# Seen with kornia 0.9.0, torch 2.13.0 and NumPy 2 on Linux x86-64, Python 3.11 (crops of a row of 8 pixels: its columns, then
# stripes):
#   center_crop to 4: 2 3 4 5, stripes 0 1 0 1
#   center_crop to 5: 1.5 2.5 3.5 4.5 5.5, stripes 0.5 0.5 0.5 0.5 0.5
#   center_crop to 5, nearest: 1 2 4 4 6, stripes 1 0 0 0 0
#   CenterCrop to 5: 1 2 3 4 5, stripes 1 0 1 0 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 kornia==0.9.0 numpy
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import kornia
import torch

SIZE = 8
columns = torch.arange(float(SIZE)).expand(1, 1, SIZE, SIZE)
stripes = columns % 2


def nearest(image):
    return kornia.geometry.center_crop(image, (5, 5), mode="nearest")


CROPS = (
    ("center_crop to 4", lambda image: kornia.geometry.center_crop(image, (4, 4))),
    ("center_crop to 5", lambda image: kornia.geometry.center_crop(image, (5, 5))),
    ("center_crop to 5, nearest", nearest),
    ("CenterCrop to 5", kornia.augmentation.CenterCrop((5, 5), p=1.0)),
)


def shown(row):
    return " ".join(f"{value:.3g}" for value in row)


whole = []
for name, crop in CROPS:
    row, stripe = (crop(image)[0, 0, 0].tolist() for image in (columns, stripes))
    print(f"{name}: {shown(row)}, stripes {shown(stripe)}")
    start = round(row[0])
    whole.append(all(abs(value - start - i) < 1e-4 for i, value in enumerate(row)))
sys.exit(whole != [True, False, False, True])
PY
