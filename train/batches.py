"""A batch and its two parts.

A batch is a tensor, or a tuple, list or dict of tensors (or of such), each with the examples along its first dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

B = TypeVar("B")


def part_sizes(num_examples: int, split_ratio: float, *, smallest: int = 1) -> tuple[int, int]:
    """Sizes of Bt and Bv: |Bt| is split_ratio * |B| rounded half up, and neither part is empty.

    Raises:
        ValueError: If a part would have fewer than `smallest` examples.

    Example:
        >>> part_sizes(128, 0.7)
        (90, 38)
    """
    first = min(max(math.floor(split_ratio * num_examples + 0.5), 1), num_examples - 1)
    second = num_examples - first
    if min(first, second) < smallest:
        raise ValueError(
            f"a batch of {num_examples} cannot be split at {split_ratio} into parts of {smallest} or more"
            f"{' (BatchNorm needs 2)' if smallest > 1 else ''}: use a larger batch or another split_ratio"
        )
    return first, second


def split(batch: B, split_ratio: float, *, model: nn.Module) -> tuple[B, B]:
    """The first and second part of a batch, views of it; sizes as `part_sizes` has them, at least 2 with BatchNorm.

    Raises:
        ValueError: If the batch is too small to split, or its tensors differ in their number of examples.
        TypeError: If the batch holds something else than tensors.
    """
    smallest = 2 if any(isinstance(module, _BatchNorm) for module in model.modules()) else 1
    lengths = {len(tensor) for tensor in _leaves(batch)}
    if len(lengths) != 1:
        raise ValueError(f"the tensors of a batch must have the same number of examples, got {sorted(lengths)}")
    first, _ = part_sizes(lengths.pop(), split_ratio, smallest=smallest)
    return _sliced(batch, slice(None, first)), _sliced(batch, slice(first, None))


def _leaves(batch: object) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for value in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _leaves(value)
    else:
        raise TypeError(
            f"a batch must be a tensor, or a tuple, list or dict of tensors; got {type(batch).__name__} in it"
        )


def _sliced(batch: B, part: slice) -> B:
    if isinstance(batch, Tensor):
        return cast(B, batch[part])
    if isinstance(batch, Mapping):
        return cast(B, {name: _sliced(value, part) for name, value in batch.items()})
    values = [_sliced(value, part) for value in cast(Sequence[object], batch)]
    if hasattr(batch, "_fields"):  # a named tuple takes its fields one by one
        return type(batch)(*values)
    return cast(B, tuple(values) if isinstance(batch, tuple) else values)
