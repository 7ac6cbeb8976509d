"""Training, validation and test part of a run, its label noise, and the order in which training visits the examples.

Legend: N examples of a part, M examples of all parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from train.config import TrainConfig
from train.data.catalogue import data_root, download, open_source
from train.data.errors import DataError
from train.data.images import Part, selected
from train.data.source import Source
from train.streams import generator

LARGEST_VALIDATION = 10_000


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
    classes: tuple[str, ...]


def load(config: TrainConfig, *, download_missing: bool = False) -> Splits:
    """The data that `config` names, with its label noise.

    Data that comes in one piece is split 60/20/20 by class; of data with a test part, a tenth of the training part (at
    most 10,000), by class too, becomes the validation part. Both splits and the noise follow `config.data_seed`.
    Nothing is downloaded without `download_missing`.

    Raises:
        ValueError: If the data is unknown.
        AbsentDataError: If it is not there; the message says which folder is expected.
        DataError: If it cannot be used.
    """
    root = data_root(config.data_root)
    if download_missing:
        download(config.data, root)
    source = open_source(config.data, root)
    train, validation, test = _parts(config.data, source, seed=config.data_seed)
    clean = train[1]
    noisy, noise_indices = flip_labels(
        clean, fraction=config.label_noise, num_classes=len(source.classes), seed=config.data_seed
    )
    return Splits(
        train=(train[0], noisy),
        validation=validation,
        test=test,
        num_classes=len(source.classes),
        noise_indices=noise_indices,
        clean_train_targets=clean,
        classes=source.classes,
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


def _parts(name: str, source: Source, *, seed: int) -> tuple[Part, Part, Part]:
    num_examples = len(source.train[1])
    if source.test is None:
        sizes = [int(0.6 * num_examples), int(0.2 * num_examples)]
        train, validation, test = _split_off(source.train, [*sizes, num_examples - sum(sizes)], seed=seed)
    elif source.validation is None:
        held_out = min(num_examples // 10, LARGEST_VALIDATION)
        train, validation = _split_off(source.train, [num_examples - held_out, held_out], seed=seed)
        test = source.test
    else:
        train, validation, test = source.train, source.validation, source.test
    if not all(len(part[1]) for part in (train, validation, test)):
        raise DataError(f"{name} has {num_examples} training examples: too few to split a validation part off")
    return train, validation, test


def _split_off(part: Part, sizes: list[int], *, seed: int) -> list[Part]:
    inputs, targets = part
    pieces = [rows.sort().values for rows in torch.split(_stratified_order(targets, seed=seed), sizes)]
    return [(selected(inputs, rows), targets[rows]) for rows in pieces]


def _stratified_order(targets: Tensor, *, seed: int) -> Tensor:
    # Each example gets its shuffled place within its class, as a fraction. Cutting all examples anywhere in that order
    # gives exact sizes, and every class its share up to one example.
    place = torch.empty(len(targets), dtype=torch.float64)
    stream = generator(seed, "split")
    for label in range(int(targets.max()) + 1):
        members = (targets == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=stream)
        place[members[order]] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return place.argsort(stable=True)
