"""What a reader hands over: the parts that a data set comes with, and the names of its classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from train.data.errors import DataError
from train.data.images import Part


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """A data set in the parts it comes with; those that are None are split off `train`."""

    train: Part
    validation: Part | None = None
    test: Part | None = None
    classes: tuple[str, ...]


def check(name: str, source: Source) -> None:
    """Refuse data that cannot be trained on.

    Raises:
        DataError: If a part is empty, a label is out of range, or there are fewer than two classes.
    """
    if len(source.classes) < 2:
        raise DataError(f"{name} has {len(source.classes)} class: a classifier needs two or more")
    parts = {"training": source.train, "validation": source.validation, "test": source.test}
    for part_name, part in parts.items():
        if part is None:
            continue
        inputs, targets = part
        if len(inputs) != len(targets):
            raise DataError(f"{name}: the {part_name} part has {len(inputs)} inputs, but {len(targets)} labels")
        if not len(targets):
            raise DataError(f"{name}: the {part_name} part is empty")
        _check_labels(f"{name}: the {part_name} part", targets, len(source.classes))
        if inputs.shape[1:] != source.train[0].shape[1:]:
            expected, found = (tuple(i.shape[1:]) for i in (source.train[0], inputs))
            raise DataError(
                f"{name}: images of the {part_name} part are {found}, those of the training part {expected}"
            )


def _check_labels(where: str, targets: Tensor, num_classes: int) -> None:
    wrong = ((targets < 0) | (targets >= num_classes)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{where} has labels out of range: {int(targets[row])} at row {row}, expected 0 to {num_classes - 1}"
        )


def labels(values: list[int]) -> Tensor:
    """Targets (N,) int64."""
    return torch.tensor(values, dtype=torch.int64)
