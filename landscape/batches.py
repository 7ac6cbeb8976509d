"""Batches cut into micro-batches, and their images laid out as the kernels like them.

Where an example's loss is its own, a batch may be cut anywhere: sums over the data change by rounding alone.

Legend: B examples of a batch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.objective import Batch, Objective, to_device

Layout = Literal["contiguous", "channels_last"]


def may_cut(objective: Objective) -> bool:
    """Whether an example's loss is its own, so that batches may be cut anywhere."""
    if objective.sums is not None or not objective.per_example:
        return False
    of_batches = [m for m in objective.model.modules() if isinstance(m, _BatchNorm) and m.running_mean is None]
    return not of_batches and count(objective.first_batch) > 0


def pieces(objective: Objective, *, micro_batch: int, layout: Layout) -> Iterator[Batch]:
    """The data of one pass on the device, `micro_batch` examples at a time (0: as they come), in a layout."""
    for batch in objective.read():
        for piece in cut(to_device(batch, objective.theta.device), micro_batch):
            yield laid_out(piece, layout)


def cut(batch: Batch, size: int) -> Iterator[Batch]:
    """A batch in pieces of `size` examples and the rest; 0 leaves it whole."""
    if not size:
        yield batch
        return
    for start in range(0, count(batch), size):
        rows = slice(start, start + size)
        yield _mapped(batch, operator.itemgetter(rows))


def laid_out(batch: Batch, layout: Layout) -> Batch:
    """A batch whose images are in a layout: those of the input of a pair, or all where the caller's sums read it."""
    if layout == "contiguous":
        return batch

    def laid_out(tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    if type(batch) in (tuple, list) and len(batch) == 2:
        return (_mapped(batch[0], laid_out), batch[1])  # the target keeps its layout: a loss may reshape it
    return _mapped(batch, laid_out)


def _mapped(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {name: _mapped(value, change) for name, value in batch.items()}
    if not isinstance(batch, tuple | list):
        return batch
    values = [_mapped(value, change) for value in batch]
    return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)


def count(batch: Batch) -> int:
    """Examples of a batch of tensors; 0 where its tensors do not agree, or it holds something else."""
    lengths: set[int] = set()

    def note(value: Batch) -> None:
        if isinstance(value, Tensor):
            lengths.add(len(value) if value.ndim else -1)
        elif type(value) is dict:
            for inner in value.values():
                note(inner)
        elif isinstance(value, tuple | list):
            for inner in value:
                note(inner)
        else:
            lengths.add(-1)

    note(batch)
    return max(lengths) if len(lengths) == 1 and lengths != {-1} else 0


def has_images(objective: Objective, batch: Batch) -> bool:
    """Whether channels_last can make a difference: 4-d weights, and a 4-d input."""
    weights = any(len(shape) == 4 for shape in objective.shapes.values())
    return weights and isinstance(batch, tuple | list) and isinstance(batch[0], Tensor) and batch[0].ndim == 4
