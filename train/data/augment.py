"""Training images as an epoch sees them: a pure function of (seed, epoch, row), on every device the same.

Small images (CIFAR) are mirrored with probability 1/2, padded with black by an eighth of their side (4 of 32), and
cropped back at a random place. Images of 224 x 224 are a random crop of the file (8 to 100 % of its area, sides 3:4 to
4:3), resized, mirrored with probability 1/2, and changed in brightness, then in contrast, by factors in 0.8..1.2. The
list of changes is that of arXiv:2406.07107, the crop that of torchvision's RandomResizedCrop with its defaults; the
range of the factors is our choice, for the paper states none. Digits and letters are not mirrored, for most would stop
being what their label says.

Legend: B rows asked for, U numbers drawn for a row; columns of a draw: flip, top, left, brightness, contrast, and four
for each attempt at a crop.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from train.data.images import CROPPED, IMAGENET_MEAN, IMAGENET_STD, Files, Images, Pixels, normalised
from train.streams import derived_seed

if TYPE_CHECKING:
    from PIL import Image

JITTER = 0.2  # largest relative change of brightness, and of contrast
AREA, RATIO, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10  # of RandomResizedCrop, its defaults

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2**64 / golden ratio, as a signed number: the step of splitmix64
_CROP, _BRIGHTNESS, _CONTRAST, _NUM_FIXED = slice(0, 3), 3, 4, 5


def augmented(images: Images, rows: Tensor, *, seed: int, epoch: int) -> Tensor:
    """float32 (B, C, H, W): these rows, augmented as in this epoch, then normalised."""
    if isinstance(images, Files) and images.size is None:
        return _large(images, rows, draws(seed, epoch, rows, num=_NUM_FIXED + 4 * ATTEMPTS))
    drawn = draws(seed, epoch, rows, num=3)
    if isinstance(images, Files):
        return normalised(shifted(images.pixels(rows), drawn, flips=True), IMAGENET_MEAN, IMAGENET_STD)
    if isinstance(images, Pixels):
        return images.normalised(shifted(images.values[rows], drawn, flips=images.flips))
    return shifted(images[rows], drawn, flips=False, background=-1.0)  # digits: -1 is their black


def draws(seed: int, epoch: int, rows: Tensor, *, num: int) -> Tensor:
    """Uniform numbers in [0, 1), (B, U) float64 on the rows' device: what a row gets does not depend on the others.

    Counter-based: splitmix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195) of row and column, keyed by seed
    and epoch; integer arithmetic, so the bits are the same on every device.

    Example:
        >>> both = draws(0, 1, torch.tensor([5, 7]), num=3)
        >>> torch.equal(both[1:], draws(0, 1, torch.tensor([7]), num=3))
        True
    """
    key = derived_seed(seed, f"augmentation of epoch {epoch}")
    state = _mixed((rows.long() + 1) * _GOLDEN + key)
    counters = torch.arange(1, num + 1, device=rows.device) * _GOLDEN
    bits = _shifted_right(_mixed(state[:, None] + counters), 11)
    return bits.double() * 2.0**-53


def shifted(values: Tensor, drawn: Tensor, *, flips: bool, background: float = 0.0) -> Tensor:
    """Images mirrored (where `flips`), padded by an eighth of each side, and cropped, by the columns (B, 3) of `drawn`.

    Example:
        >>> image = torch.arange(64.0).view(1, 1, 8, 8)
        >>> centre = torch.tensor([[0.9, 0.5, 0.5]])  # not mirrored, cropped where it was
        >>> torch.equal(shifted(image, centre, flips=True), image)
        True
    """
    num, channels, height, width = values.shape
    pads = height // 8, width // 8
    padded = torch.nn.functional.pad(values, (pads[1], pads[1], pads[0], pads[0]), value=background)
    top, left = ((drawn[:, 1 + axis] * (2 * pad + 1)).long() for axis, pad in enumerate(pads))
    at = functools.partial(torch.arange, device=values.device)
    rows, columns = top[:, None] + at(height), left[:, None] + at(width)
    if flips:  # the padding is even, so mirroring before it is mirroring after it
        columns = torch.where(drawn[:, :1] < 0.5, width + 2 * pads[1] - 1 - columns, columns)
    taken: Tensor = padded[
        at(num)[:, None, None, None], at(channels)[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]
    return taken


def crop_box(width: int, height: int, drawn: list[float]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop: the first of ten attempts that fits, else a central one.

    Four numbers of `drawn` to an attempt: area, log of the ratio of the sides, top, left.
    """
    logs = math.log(RATIO[0]), math.log(RATIO[1])
    for area, ratio, top, left in zip(*(drawn[column::4] for column in range(4)), strict=True):
        target = width * height * (AREA[0] + (AREA[1] - AREA[0]) * area)
        sides = math.exp(logs[0] + (logs[1] - logs[0]) * ratio)
        w, h = round(math.sqrt(target * sides)), round(math.sqrt(target / sides))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(left * (width - w + 1)), int(top * (height - h + 1))
            return x, y, x + w, y + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h


def jittered(values: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """uint8 images (B, 3, H, W) times `brightness` (B,), then moved away from their mean grey by `contrast` (B,).

    Both in whole levels, as torchvision does it: cut to 0..255, and down to the next integer.
    """
    bright = (values * brightness.float().view(-1, 1, 1, 1)).clamp(0, 255).to(torch.uint8)
    red, green, blue = bright.float().unbind(1)
    grey = (0.2989 * red + 0.587 * green + 0.114 * blue).to(torch.uint8)
    mean = (grey.long().sum(dim=(1, 2)).double() / grey[0].numel()).float()  # a sum of integers has no rounding
    factor = contrast.float().view(-1, 1, 1, 1)
    return (factor * bright + (1 - factor) * mean.view(-1, 1, 1, 1)).clamp(0, 255).to(torch.uint8)


def _large(images: Files, rows: Tensor, drawn: Tensor) -> Tensor:
    attempts = drawn[:, _NUM_FIXED:].tolist()

    def view(place: int, image: Image.Image) -> Image.Image:
        from PIL import Image

        box = crop_box(image.width, image.height, attempts[place])
        return image.crop(box).resize((CROPPED, CROPPED), Image.Resampling.BILINEAR)

    values = images.read(rows.cpu(), view).to(images.device)
    drawn = drawn.to(images.device)
    values = torch.where((drawn[:, 0] < 0.5).view(-1, 1, 1, 1), values.flip(3), values)
    factors = 1 + JITTER * (2 * drawn[:, (_BRIGHTNESS, _CONTRAST)] - 1)
    return normalised(jittered(values, factors[:, 0], factors[:, 1]), IMAGENET_MEAN, IMAGENET_STD)


def _mixed(x: Tensor) -> Tensor:
    """The finaliser of splitmix64; products of int64 wrap around, as they should."""
    x = (x ^ _shifted_right(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shifted_right(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shifted_right(x, 31)


def _shifted_right(x: Tensor, bits: int) -> Tensor:
    logical: Tensor = (x >> bits) & (2 ** (64 - bits) - 1)  # torch shifts the sign in
    return logical
