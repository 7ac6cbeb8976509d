"""What a measurement sees of a part of the data: all of it or a sample, in batches that are made anew on each pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from train.data.images import Images, Part, selected
from train.streams import generator


@dataclass(frozen=True)
class Batches:
    """A part of the data in batches of `size` examples, the last one shorter, made anew on each pass."""

    inputs: Images
    targets: Tensor
    size: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.targets), self.size):
            rows = slice(start, start + self.size)
            yield self.inputs[rows], self.targets[rows]


def sample(part: Part, num_examples: int, *, seed: int) -> Part:
    """So many examples of a part, drawn by the seed, in the order of the part.

    Example:
        >>> inputs, targets = sample((torch.zeros(9, 1, 2, 2), torch.arange(9)), 4, seed=0)
        >>> inputs.shape[0], len(set(targets.tolist())), bool((targets.diff() > 0).all())
        (4, 4, True)
    """
    inputs, targets = part
    rows = torch.randperm(len(targets), generator=generator(seed, "measured examples"))[:num_examples].sort().values
    return selected(inputs, rows), targets[rows]
