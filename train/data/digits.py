"""scikit-learn's digits, embedded in that package: 1,797 images of 8 x 8, 17 grey levels, ten classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.data.images import Pixels
from train.data.source import Source

CLASSES = tuple(str(digit) for digit in range(10))


def digits() -> Source:
    """The images (N, 1, 8, 8) in -1..1."""
    values, targets = _levels()
    return Source(train=((values / 8 - 1).float(), targets), classes=CLASSES)


def digits32() -> Source:
    """The images rendered to 32 x 32 in three equal channels, so that networks for CIFAR have data offline.

    Each pixel is the bilinear interpolation of the four nearest levels (pixel centres at half-integers, the border
    repeated), scaled from 0..16 to 0..255 and rounded half to even. The weights are multiples of 1/64, so there is no
    rounding before that: the bytes are the same everywhere. Normalised to -1..1.
    """
    values, targets = _levels()
    large = nn.functional.interpolate(values, size=(32, 32), mode="bilinear", align_corners=False)
    pixels = (large * 255 / 16).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    return Source(train=(Pixels(values=pixels, mean=(0.5,) * 3, std=(0.5,) * 3, flips=False), targets), classes=CLASSES)


def _levels() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits  # a second to import, so only when digits are wanted

    found = load_digits()
    values = torch.tensor(found.images, dtype=torch.float64).unsqueeze(1)  # whole numbers, 0..16
    return values, torch.tensor(found.target, dtype=torch.int64)
