"""The data of a run: three parts of fixed examples, and the order in which training visits them.

Legend: N examples of a part, M examples of all parts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from train.config import TrainConfig, check_choice
from train.streams import generator

Part = tuple[Tensor, Tensor]  # inputs (N, channels, height, width) float32, targets (N,) int64


@dataclass(frozen=True, eq=False, kw_only=True)
class Splits:
    """Training, validation and test part.

    `train` carries the labels that are trained on; those at `noise_indices` were changed, and `clean_train_targets`
    holds what they were. Validation and test labels are never changed.
    """

    train: Part
    validation: Part
    test: Part
    num_classes: int
    noise_indices: Tensor  # int64, ascending, into the training part
    clean_train_targets: Tensor  # (N,) int64


def load(config: TrainConfig) -> Splits:
    """The data that `config` names, split 60/20/20 by class, with its label noise; both follow `config.data_seed`.

    Raises:
        ValueError: If the data is unknown.
    """
    loaders = {"digits": _digits}
    check_choice("data", config.data, tuple(loaders))
    inputs, targets = loaders[config.data]()
    train, validation, test = _stratified_split(targets, seed=config.data_seed)
    num_classes = int(targets.max()) + 1
    noisy, noise_indices = flip_labels(
        targets[train], fraction=config.label_noise, num_classes=num_classes, seed=config.data_seed
    )
    return Splits(
        train=(inputs[train], noisy),
        validation=(inputs[validation], targets[validation]),
        test=(inputs[test], targets[test]),
        num_classes=num_classes,
        noise_indices=noise_indices,
        clean_train_targets=targets[train],
    )


def flip_labels(targets: Tensor, *, fraction: float, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Labels with exactly round(fraction * N) changed to another class, all others equally likely, and which ones.

    Example:
        >>> noisy, indices = flip_labels(torch.zeros(10, dtype=torch.int64), fraction=0.3, num_classes=4, seed=0)
        >>> int((noisy != 0).sum()), len(indices)
        (3, 3)
    """
    stream = generator(seed, "label noise")
    indices = torch.randperm(len(targets), generator=stream)[: round(fraction * len(targets))].sort().values
    shifts = torch.randint(1, num_classes, (len(indices),), generator=stream)
    noisy = targets.clone()
    noisy[indices] = (targets[indices] + shifts) % num_classes
    return noisy, indices


def batch_order(seed: int, epoch: int, num_examples: int, batch_size: int) -> Tensor:
    """Which examples form which batch of an epoch: (num_batches, batch_size), a function of `seed` and `epoch` alone.

    The ragged last batch is dropped.

    Example:
        >>> batch_order(0, 1, 10, 4).shape
        torch.Size([2, 4])
    """
    order = torch.randperm(num_examples, generator=generator(seed, f"order of epoch {epoch}"))
    num_batches = num_examples // batch_size
    return order[: num_batches * batch_size].reshape(num_batches, batch_size)


def content_hash(*tensors: Tensor) -> str:
    """SHA-256 over the shapes, dtypes and bytes of `tensors`, as hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def splits_hash(splits: Splits) -> str:
    """Content hash of all three parts, labels as trained."""
    return content_hash(*splits.train, *splits.validation, *splits.test)


def _digits() -> Part:
    from sklearn.datasets import load_digits  # a second to import, so only when digits are wanted

    digits = load_digits()
    inputs = torch.tensor(digits.images / 8 - 1, dtype=torch.float32).unsqueeze(1)  # pixels are 0..16
    return inputs, torch.tensor(digits.target, dtype=torch.int64)


def _stratified_split(targets: Tensor, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    # Each example gets its shuffled place within its class, as a fraction. Cutting all examples at 0.6 and 0.8 of
    # that order gives exact sizes, and every class its share up to one example.
    place = torch.empty(len(targets), dtype=torch.float64)
    stream = generator(seed, "split")
    for label in range(int(targets.max()) + 1):
        members = (targets == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=stream)
        place[members[order]] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    order = place.argsort(stable=True)
    first, second = int(0.6 * len(targets)), int(0.2 * len(targets))
    parts = order[:first], order[first : first + second], order[first + second :]
    return parts[0].sort().values, parts[1].sort().values, parts[2].sort().values
