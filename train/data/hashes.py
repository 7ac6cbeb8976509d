"""What two machines compare to know that they have the same data."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from train.data.images import Files, Images, Pixels
from train.data.splits import Splits


def content_hash(*tensors: Tensor) -> str:
    """SHA-256 over the shapes, dtypes and bytes of `tensors`, as hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def splits_hash(splits: Splits) -> str:
    """Content hash of all three parts, labels as trained; of image files, their names and sizes stand for them."""
    parts = (splits.train, splits.validation, splits.test)
    return content_hash(*(tensor for inputs, targets in parts for tensor in (*_content(inputs), targets)))


def _content(images: Images) -> tuple[Tensor, ...]:
    if isinstance(images, Files):
        return (images.listing(),)
    if isinstance(images, Pixels):
        return images.values, torch.tensor([images.mean, images.std])
    return (images[:],)
