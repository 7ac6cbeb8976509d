"""Which examples of a batch a process trains on, and in which pieces it climbs.

m            chunks of m of the batch, dealt to the processes; each is climbed on by itself, wherever it is
local        an equal part of the batch for each process, climbed on by itself: m-sharpness, m the size of a part
global       Bt and Bv of the whole batch, an equal part of both for each process, climbed on together
"""

from __future__ import annotations

import torch
from torch import Tensor

from train.batches import Parts, part_sizes
from train.config import TrainConfig
from train.distributed import Workers

Rows = Tensor | Parts[Tensor]

_SPLITTING = ("sam-subset", "agnostic-sam", "agnostic-sam-simple", "agnostic-sam-nonoverlap")


def my_rows(config: TrainConfig, rows: Tensor, workers: Workers) -> Rows:
    """The rows of a batch that are for this process; in one process, all as they are.

    Example:
        >>> my_rows(TrainConfig(m=4, method="sam"), torch.arange(10), Workers(1, 2))
        tensor([8, 9])
        >>> part = my_rows(TrainConfig(method="agnostic-sam"), torch.arange(10), Workers(1, 2))
        >>> part.first, part.second
        (tensor([4, 5, 6]), tensor([9]))
    """
    if workers.size == 1:
        return rows
    if _chunk(config):
        mine = workers.share(-(-len(rows) // config.m))
        return rows[mine.start * config.m : mine.stop * config.m]
    # the parts of a batch of agnostic-sam-nonoverlap come from two sets, in that order: it is never cut across
    if config.method not in _SPLITTING or (config.sam_sync == "local" and config.method != "agnostic-sam-nonoverlap"):
        return _mine(rows, workers)
    first, second = torch.split(rows, list(part_sizes(len(rows), config.split_ratio)))
    return Parts(_mine(first, workers), _mine(second, workers))


def check_pieces(config: TrainConfig, num_processes: int) -> None:
    """Refuse a batch that leaves a process without examples, or BatchNorm with one.

    Raises:
        ValueError: If it does; the message says what to change.
    """
    rows = torch.arange(config.batch_size)
    splits = config.method in _SPLITTING
    for rank in range(num_processes):
        mine = my_rows(config, rows, Workers(rank, num_processes))
        if isinstance(mine, Parts):
            pieces = [mine.first, mine.second] if config.method != "sam-subset" else [mine.first]
        else:
            pieces = list(torch.split(mine, _chunk(config) or len(mine) or 1))
            if splits:
                for piece in pieces:
                    part_sizes(max(len(piece), 2), config.split_ratio, smallest=2)
        smallest = min(map(len, pieces))
        if smallest < 2:  # all our models have BatchNorm
            cut = f"m {config.m}" if _chunk(config) else f"{num_processes} processes"
            raise ValueError(
                f"{cut} cut a batch of {config.batch_size} into pieces as small as {smallest}, and BatchNorm needs 2: "
                f"use a larger batch_size{', or another m' if _chunk(config) else ' or fewer processes'}"
            )


def _chunk(config: TrainConfig) -> int:
    return 0 if config.method == "sgd" else config.m  # plain descent perturbs nothing


def _mine(rows: Tensor, workers: Workers) -> Tensor:
    part = workers.share(len(rows))
    return rows[part.start : part.stop]
