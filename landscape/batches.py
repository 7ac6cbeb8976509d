"""What a batch holds: moved to a device, cut into micro-batches, laid out as the kernels like images, and its bytes.

Where an example's loss is its own, a batch may be cut anywhere: sums over the data change by rounding alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from landscape.results import Array

Batch = Any  # what the caller's loader yields: (input, target), or whatever their own sums read
Layout = Literal["contiguous", "channels_last"]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch whose tensors are on `device`."""
    if hasattr(batch, "to"):  # tensors, and the batches of tokenizers
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return _like(batch, [to_device(value, device) for value in batch])
    return batch


def cut(batch: Batch, size: int) -> Iterator[Batch]:
    """A batch in pieces of `size` examples and the rest; 0 leaves it whole."""
    if not size or count(batch) <= size:
        yield batch
        return
    for start in range(0, count(batch), size):
        yield rows(batch, slice(start, start + size))


def converted(batch: Batch, dtype: torch.dtype) -> Batch:
    """A batch whose floating-point tensors are of `dtype`."""
    return _mapped(batch, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def rows(batch: Batch, which: slice | Tensor) -> Batch:
    """Some examples of a batch: a slice of them, or those where `which` (B,) is true."""
    return _mapped(batch, operator.itemgetter(which))


def laid_out(batch: Batch, layout: Layout) -> Batch:
    """A batch whose images are in a layout: those of the input of a pair, or all where the caller's sums read it."""
    if layout == "contiguous":
        return batch

    def laid_out(tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    if isinstance(batch, tuple | list) and len(batch) == 2:
        return _like(batch, [_mapped(batch[0], laid_out), batch[1]])  # the target keeps its own: a loss may reshape it
    return _mapped(batch, laid_out)


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


def has_images(shapes: Mapping[str, torch.Size], batch: Batch) -> bool:
    """Whether channels_last can make a difference: 4-d weights, by the shapes of the parameters, and a 4-d input."""
    weights = any(len(shape) == 4 for shape in shapes.values())
    return weights and isinstance(batch, tuple | list) and isinstance(batch[0], Tensor) and batch[0].ndim == 4


def content(batch: Batch, place: str = "") -> Iterator[tuple[str, object, bytes]]:
    """What a batch holds: for each of its tensors the place in it, the kind (shape of an example, dtype), the bytes."""
    if isinstance(batch, Tensor | np.ndarray):
        yield place, (tuple(batch.shape[1:]), str(batch.dtype)), bytes_of(batch)
    elif isinstance(batch, Mapping):
        for key in batch:
            yield from content(batch[key], f"{place}/{key}")
    elif isinstance(batch, tuple | list):
        for index, value in enumerate(batch):
            yield from content(value, f"{place}/{index}")
    elif batch is None or isinstance(batch, bool | int | float | str | bytes):
        yield place, type(batch).__name__, repr(batch).encode()
    else:
        raise TypeError(f"a batch holds a {type(batch).__name__}: give tensors, in tuples, lists or mappings")


def bytes_of(array: Tensor | Array) -> bytes:
    """The bytes of an array, in the order of its elements; of a sparse one, those of its indices and values."""
    if isinstance(array, Tensor) and array.layout != torch.strided:
        sparse = array.detach().to_sparse().coalesce()
        return bytes_of(sparse.indices()) + bytes_of(sparse.values())
    if isinstance(array, Tensor):
        array = array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return array.tobytes()


def _mapped(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {name: _mapped(value, change) for name, value in batch.items()}
    if not isinstance(batch, tuple | list):
        return batch
    return _like(batch, [_mapped(value, change) for value in batch])


def _like(batch: Batch, values: list[Batch]) -> Batch:
    """The values in the place of those of a tuple, named or not, or a list."""
    return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
