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

    The validation part may be empty (`val_fraction` 0). `train` carries the labels that are trained on; those at
    `noise_indices` were changed, and `clean_train_targets` holds what they were. Validation and test labels are never
    changed.
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

    Data that comes in one piece is split 60/20/20 by class; of data with a test part, `config.val_fraction` of the
    training part, by class too, becomes the validation part (`num_held_out`). Where nothing is held out, it is empty.
    Both splits and the noise follow `config.data_seed`. Nothing is downloaded without `download_missing`.

    Raises:
        ValueError: If the data is unknown, or in one piece and `config.val_fraction` is of no use for it.
        AbsentDataError: If it is not there; the message says which folder is expected.
        DataError: If it cannot be used.
    """
    root = data_root(config.data_root)
    if download_missing:
        download(config.data, root)
    source = open_source(config.data, root)
    train, validation, test = _parts(config, source)
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


def num_held_out(num_examples: int, fraction: float, *, one_piece: bool) -> int:
    """How many examples of `num_examples` become the validation part: `fraction` of them, at most 10,000.

    Data in one piece, which has its test part to give as well, gives a fifth, or nothing where `fraction` is 0.

    Raises:
        ValueError: If the data is in one piece, and `fraction` is neither 0 nor the default.

    Example:
        >>> num_held_out(50_000, 0.1, one_piece=False), num_held_out(1797, 0.1, one_piece=True)
        (5000, 359)
    """
    if not one_piece:
        return min(int(fraction * num_examples), LARGEST_VALIDATION)
    if fraction not in (0, TrainConfig.val_fraction):
        raise ValueError(
            f"val_fraction must be {TrainConfig.val_fraction} (split 60/20/20) or 0 (80/0/20) for data in one piece; "
            f"got {fraction}"
        )
    return int(0.2 * num_examples) if fraction else 0


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


def _parts(config: TrainConfig, source: Source) -> tuple[Part, Part, Part]:
    num_examples, seed = len(source.train[1]), config.data_seed
    if source.test is None:
        held_out = num_held_out(num_examples, config.val_fraction, one_piece=True)
        not_test = int(0.6 * num_examples) + int(0.2 * num_examples)  # the same test part, whatever is held out
        sizes = [not_test - held_out, held_out, num_examples - not_test]
        train, validation, test = _split_off(source.train, sizes, seed=seed)
    elif source.validation is None:
        held_out = num_held_out(num_examples, config.val_fraction, one_piece=False)
        train, validation = _split_off(source.train, [num_examples - held_out, held_out], seed=seed)
        test = source.test
    else:
        train, validation, test = source.train, source.validation, source.test
    wanted = (train, validation, test) if config.val_fraction else (train, test)
    if not all(len(part[1]) for part in wanted):
        raise DataError(
            f"{config.data} has {num_examples} training examples: too few to split a validation part off; "
            "val_fraction 0 splits none off"
        )
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
