"""A batch, its two parts, its micro-batches.

A batch is a tensor, or a tuple, list or dict of tensors (or of such), each with the examples along its first dimension.

Legend: B a batch; Bt, Bv its first and second part; S the training set; St, Sv its two parts, fixed by a seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from train.streams import generator

B = TypeVar("B")
Accumulation = Literal["exact", "per-micro-batch"]
Weighted = list[tuple[B, float]]  # batches, each with its share of the examples


@dataclass(frozen=True)
class MicroBatches(Generic[B]):
    """A batch that comes in pieces, given to `step` in the place of a batch. Means are over examples, not over pieces.

    "exact" perturbs once: all pieces give the ascent gradient, all are visited again at the perturbed point; the step
    is that of the whole batch, but for BatchNorm, which sees piece by piece. "per-micro-batch" perturbs for each piece
    alone and averages the gradients found there: sharpness on pieces (m-sharpness), with one more buffer of the size of
    the parameters. Both cost as many passes over the examples as the whole batch would.

    Running statistics move once for each piece. A method that splits a batch splits each piece.

    Raises:
        ValueError: If there is no piece, or `accumulation` is unknown.
    """

    batches: Sequence[B]
    accumulation: Accumulation = "exact"

    def __post_init__(self) -> None:
        if self.accumulation not in get_args(Accumulation):
            raise ValueError(f"accumulation must be one of {get_args(Accumulation)}, got {self.accumulation!r}")
        if not self.batches:
            raise ValueError("micro-batches are empty: give one batch or more")


@dataclass(frozen=True)
class Parts(Generic[B]):
    """A batch that is split into Bt and Bv already, in the place of a batch of a method that splits."""

    first: B
    second: B


def groups(batch: B | Parts[B] | MicroBatches[B], *, m: int | None = None) -> list[list[B]]:
    """The pieces of a batch, those together that share a perturbation; `m`: in chunks of m examples, each on its own.

    Raises:
        ValueError: If `m` is not positive, or is to cut what is accumulated exactly.
    """
    given = batch if isinstance(batch, MicroBatches) else MicroBatches([cast(B, batch)])  # Parts are for `split`
    if m is None:
        return [list(given.batches)] if given.accumulation == "exact" else [[piece] for piece in given.batches]
    if m < 1:
        raise ValueError(f"m must be at least 1, got {m}")
    if isinstance(batch, MicroBatches) and given.accumulation == "exact":
        raise ValueError("m perturbs chunks apart, 'exact' perturbs once: use accumulation='per-micro-batch', or no m")
    return [[chunk] for piece in given.batches for chunk in _chunks(piece, m)]


def weighted(groups: Sequence[Sequence[B]]) -> list[Weighted[B]]:
    """Each piece with its share of all examples. A piece that is alone may be any object, and has share 1."""
    if sum(len(group) for group in groups) == 1:
        return [[(groups[0][0], 1.0)]]
    total = sum(num_examples(piece) for group in groups for piece in group)
    return [[(piece, num_examples(piece) / total) for piece in group] for group in groups]


def num_examples(batch: object) -> int:
    """How many examples a batch has.

    Raises:
        ValueError: If its tensors differ in that.
        TypeError: If it holds something else than tensors.
    """
    lengths = {len(tensor) for tensor in _leaves(batch)}
    if len(lengths) != 1:
        raise ValueError(f"the tensors of a batch must have the same number of examples, got {sorted(lengths)}")
    return lengths.pop()


def nonoverlapping_order(seed: int, epoch: int, num_examples: int, batch_size: int, split_ratio: float) -> Tensor:
    """Which examples form which batch of an epoch, Bt from St and Bv from Sv alone: (num_batches, batch_size).

    The first columns are Bt, so that `split` finds them. St and Sv depend on `seed` only; both have the sizes that
    `part_sizes` gives for S, and an epoch has floor(N / batch_size) steps, as for every method. Where a part is too
    small for that by rounding, its first examples come again at the end of the epoch.

    Example:
        >>> rows = nonoverlapping_order(0, 0, 20, 10, 0.7)
        >>> rows.shape, len(set(rows[:, :7].flatten().tolist()) & set(rows[:, 7:].flatten().tolist()))
        (torch.Size([2, 10]), 0)
    """
    num_batches = num_examples // batch_size
    fixed = torch.randperm(num_examples, generator=generator(seed, "non-overlapping parts"))
    parts = torch.split(fixed, list(part_sizes(num_examples, split_ratio)))
    columns = []
    for name, part, size in zip(("Bt", "Bv"), parts, part_sizes(batch_size, split_ratio), strict=True):
        order = torch.randperm(len(part), generator=generator(seed, f"order of epoch {epoch}, {name}"))
        visits = torch.arange(num_batches * size) % len(part)
        columns.append(part[order[visits]].reshape(num_batches, size))
    return torch.cat(columns, dim=1)


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
    if isinstance(batch, Parts):
        return batch.first, batch.second
    smallest = 2 if any(isinstance(module, _BatchNorm) for module in model.modules()) else 1
    first, _ = part_sizes(num_examples(batch), split_ratio, smallest=smallest)
    return _sliced(batch, slice(None, first)), _sliced(batch, slice(first, None))


def _chunks(batch: B, m: int) -> list[B]:
    return [_sliced(batch, slice(start, start + m)) for start in range(0, num_examples(batch), m)]


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
