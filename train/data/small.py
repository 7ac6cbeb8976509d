"""Small images that come as arrays: the MNIST family (IDX files) and SVHN (MATLAB files)."""

from __future__ import annotations

import gzip
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.data.errors import DataError
from train.data.images import Part, Pixels
from train.data.matlab import read_matlab
from train.data.source import Source

_DIGITS = tuple(str(digit) for digit in range(10))
_CLASSES = {
    "MNIST": _DIGITS,
    "FashionMNIST": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "KMNIST": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}
_STATISTICS = {"MNIST": (0.1307, 0.3081), "FashionMNIST": (0.2860, 0.3530), "KMNIST": (0.1918, 0.3483)}
_SVHN_MEAN, _SVHN_STD = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)


def _mnist_family(name: str, root: Path) -> Source:
    def part(prefix: str) -> Part:
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte", num_axes=3)
        targets = read_idx(folder / f"{prefix}-labels-idx1-ubyte", num_axes=1).long()
        mean, std = _STATISTICS[name]
        return Pixels(values=images.unsqueeze(1), mean=(mean,), std=(std,), flips=name == "FashionMNIST"), targets

    folder = root / name / "raw"
    return Source(train=part("train"), test=part("t10k"), classes=_CLASSES[name])


mnist = partial(_mnist_family, "MNIST")
fashion_mnist = partial(_mnist_family, "FashionMNIST")
kmnist = partial(_mnist_family, "KMNIST")


def svhn(root: Path) -> Source:
    """Street view house numbers, cropped (Netzer et al. 2011), without the extra part; the digit 0, there 10, is 0."""

    def part(name: str) -> Part:
        path = root / f"{name}_32x32.mat"
        content = read_matlab(path, "X", "y")
        images, targets = content["X"], content["y"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
            raise DataError(f"{path} is not SVHN: X is {images.dtype} {images.shape}, expected bytes (32, 32, 3, N)")
        values = torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1)))
        numbers = torch.from_numpy(targets.astype(np.int64).reshape(-1))
        numbers[numbers == 10] = 0
        return Pixels(values=values, mean=_SVHN_MEAN, std=_SVHN_STD, flips=False), numbers

    return Source(train=part("train"), test=part("test"), classes=_DIGITS)


def read_idx(path: Path, *, num_axes: int) -> Tensor:
    """The bytes of an IDX file, or of its .gz: two zero bytes, type 8, number of axes, big-endian sizes, then data.

    Raises:
        DataError: If the header is not that, or the data is shorter or longer than it says.
    """
    try:
        content = (
            path.read_bytes() if path.exists() else gzip.decompress(path.with_name(path.name + ".gz").read_bytes())
        )
    except (gzip.BadGzipFile, EOFError, OSError) as error:
        raise DataError(f"{path}.gz cannot be read ({error}): copy or download it again") from error
    start = 4 + 4 * num_axes
    if content[:4] != bytes((0, 0, 8, num_axes)) or len(content) < start:
        raise DataError(
            f"{path} is not an IDX file of bytes with {num_axes} axes: it begins with {content[:4].hex(' ')}"
        )
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    expected = int(np.prod(shape, dtype=object))
    if len(content) - start != expected:
        raise DataError(
            f"{path} is truncated or damaged: it has {len(content) - start:,} bytes, its header says {expected:,}"
        )
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=start).copy()).view(shape)
