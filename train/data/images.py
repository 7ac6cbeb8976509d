"""The inputs of a part of the data, on the device or read from files when they are asked for.

Three things are `Images`: a float32 tensor, `Pixels` (resident, normalised batch by batch) and `Files`.

Legend: N examples, C channels, H and W the size that the model sees, B examples asked for.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from train.data.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

RESIZED, CROPPED = 256, 224  # short side and central crop of evaluation, as the networks for ImageNet are used
KEPT_BYTES = 2**30  # a part read from files stays in memory, once read, where it needs no more than this
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Rows = slice | Tensor
T = TypeVar("T")


class Images(Protocol):
    """N images that are indexed by a slice or by row numbers; what comes back is float32, normalised, on the device."""

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Rows, /) -> Tensor: ...

    def to(self, device: torch.device, /) -> Images:
        """The same images, delivered on `device`."""


Part = tuple[Images, Tensor]  # inputs, targets (N,) int64


@dataclass(frozen=True, eq=False, kw_only=True)
class Pixels:
    """Images held in one tensor, uint8 (0 to 255) or float32, normalised when a batch is taken.

    `mean` and `std` are those of the channels, with uint8 scaled to 0..1. `flips` says whether a mirrored image is
    still one of its class.
    """

    values: Tensor  # (N, C, H, W)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flips: bool

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""
        return self.values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Rows) -> Tensor:
        return self.normalised(self.values[rows])

    def normalised(self, values: Tensor) -> Tensor:
        """float32 (B, C, H, W) of raw `values`."""
        return normalised(values, self.mean, self.std)

    def select(self, rows: Tensor) -> Pixels:
        """Only these rows."""
        return dataclasses.replace(self, values=self.values[rows])

    def to(self, device: torch.device) -> Pixels:
        """The same images on `device`."""
        return dataclasses.replace(self, values=self.values.to(device))


@dataclass(frozen=True, eq=False, kw_only=True)
class Files:
    """Image files, read and decoded on the CPU when they are asked for, as RGB, with ImageNet's normalisation.

    Where `size` is None, an image is resized to a short side of 256 and cropped to the central 224 x 224; otherwise all
    images have this size, and are used as they are. `names` are relative to `folder`, so that moved data is the same
    data. A part that fits `KEPT_BYTES` is read from disk once.
    """

    folder: Path
    names: tuple[str, ...]
    size: tuple[int, int] | None = None  # (H, W)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    kept: tuple[Tensor, Tensor] | None = None  # uint8 (N, 3, H, W), and which rows of it are filled (N,)

    flips = True

    @property
    def shape(self) -> torch.Size:
        """(N, 3, H, W)."""
        return torch.Size((len(self.names), 3, *(self.size or (CROPPED, CROPPED))))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: Rows) -> Tensor:
        return normalised(self.pixels(rows), IMAGENET_MEAN, IMAGENET_STD)

    def pixels(self, rows: Rows) -> Tensor:
        """uint8 (B, 3, H, W), as evaluation sees them."""
        indices = torch.arange(len(self))[rows.cpu() if isinstance(rows, Tensor) else rows]
        if self.kept is None:
            return self.read(indices, self._whole).to(self.device)
        values, known = self.kept
        new = indices[~known[indices]]
        if len(new):
            values[new.to(self.device)] = self.read(new, self._whole).to(self.device)
            known[new] = True
        return values[indices.to(self.device)]

    def read(self, indices: Tensor, view: Callable[[int, Image.Image], Image.Image]) -> Tensor:
        """uint8 (B, 3, H, W) on the CPU: `view(place among the indices, decoded image)` of each file."""

        def one(place: int, row: int) -> Tensor:
            return torch.from_numpy(np.array(view(place, self.decoded(row)))).permute(2, 0, 1)

        read = in_threads(one, indices.tolist())
        return torch.stack(read) if read else torch.empty((0, *self.shape[1:]), dtype=torch.uint8)

    def decoded(self, row: int) -> Image.Image:
        """The whole image in a file, as RGB.

        Raises:
            DataError: If the file is damaged, missing, or of another size than expected; it names the file.
        """
        from PIL import Image

        path = self.folder / self.names[row]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except Exception as error:  # whatever a damaged file can make its decoder raise
            reason = "there is no such file" if isinstance(error, FileNotFoundError) else error
            raise DataError(f"{path} cannot be read as an image ({reason}): copy it again, or remove it") from error
        if self.size is not None and (image.height, image.width) != self.size:
            raise DataError(
                f"{path} is {image.height}x{image.width} pixels, but the first image is {self.size[0]}x{self.size[1]}: "
                "small images must all have one size"
            )
        return image

    def select(self, rows: Tensor) -> Files:
        """Only these rows."""
        return dataclasses.replace(self, names=tuple(self.names[row] for row in rows.tolist()), kept=None)

    def to(self, device: torch.device) -> Files:
        """The same images, delivered on `device`, and kept there where they fit."""
        fits = self.shape.numel() <= KEPT_BYTES
        values = torch.empty(self.shape if fits else (0,), dtype=torch.uint8, device=device)
        kept = (values, torch.zeros(len(self), dtype=torch.bool)) if fits else None
        return dataclasses.replace(self, device=device, kept=kept)

    def listing(self) -> Tensor:
        """Names and sizes of the files as bytes: what stands for the content of files that are not all read."""
        lines = (f"{name} {(self.folder / name).stat().st_size}\n" for name in self.names)
        return torch.from_numpy(np.frombuffer("".join(lines).encode(), dtype=np.uint8).copy())

    def _whole(self, _place: int, image: Image.Image) -> Image.Image:
        return image if self.size is not None else central_crop(image)


def selected(images: Images, rows: Tensor) -> Images:
    """Only these rows of `images`."""
    return images.select(rows) if isinstance(images, Pixels | Files) else images[rows]


def normalised(values: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """float32 (B, C, H, W): (values - mean) / std by channel, uint8 scaled to 0..1 first."""
    levels = 255 if values.dtype == torch.uint8 else 1
    shift, scale = (
        torch.tensor([levels * number for number in numbers], device=values.device).view(-1, 1, 1)
        for numbers in (mean, std)
    )
    return (values.float() - shift) / scale


def central_crop(image: Image.Image) -> Image.Image:
    """The image with a short side of 256, and of that the central 224 x 224."""
    from PIL import Image

    width, height = image.size
    short = min(width, height)
    width, height = RESIZED * width // short, RESIZED * height // short
    left, top = round((width - CROPPED) / 2), round((height - CROPPED) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + CROPPED, top + CROPPED))


def in_threads(work: Callable[[int, int], T], rows: list[int]) -> list[T]:
    """`work(place, row)` for each row, in their order; decoding releases the interpreter, so threads help."""
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, range(len(rows)), rows))
