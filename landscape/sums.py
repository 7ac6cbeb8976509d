"""The sums over examples behind a mean loss, its standard error, accuracy and metrics.

They are in float64 and add up over batches, so that a pass over the data in any pieces ends in one division.

Legend: B examples of a batch, M metrics.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from landscape.losses import Terms
from landscape.results import Array

NUM_SUMS = 8  # loss, denominator, loss^2, loss * denominator, denominator^2, examples, correct, targets


def summarise(sums: Array) -> tuple[Array, Array, Array]:
    """Mean loss, its standard error, and accuracy from sums (..., 8 or more).

    The mean is a ratio of sums over examples, so its standard error is the linearised one (Cochran 1977,
    Sampling Techniques, eq. 6.4): the spread of loss_i - mean * denominator_i.
    """
    loss, denominator, loss2, cross, denominator2, count, correct, targets = np.moveaxis(sums[..., :NUM_SUMS], -1, 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mean = loss / denominator
        spread = np.maximum(loss2 - 2 * mean * cross + mean**2 * denominator2, 0.0)
        standard_error = np.sqrt(spread * count / (count - 1)) / denominator
        return mean, standard_error, correct / targets


def metric_means(sums: Array) -> list[tuple[Array, Array]]:
    """The mean of each metric and its standard error, from sums (..., num_sums)."""
    count = sums[..., 5]
    found = []
    for at in range(NUM_SUMS, sums.shape[-1], 2):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            mean = sums[..., at] / count
            variance = np.maximum(sums[..., at + 1] / count - mean**2, 0.0)
            found.append((mean, np.sqrt(variance / (count - 1))))
    return found


def sums_of(found: Terms) -> Tensor:
    """The sums (num_sums,) in float64 of one batch."""
    loss, denominator = found.loss.double(), found.denominator.double()
    nan = loss.new_tensor(float("nan"))
    spread = [loss @ loss, loss @ denominator, denominator @ denominator] if found.per_example else [nan, nan, nan]
    count = loss.new_tensor(float(found.num_examples))
    correct = nan if found.correct is None else found.correct.double()
    targets = nan if found.targets is None else found.targets.double()
    sums = torch.stack([loss.sum(), denominator.sum(), *spread, count, correct, targets])
    if found.metrics is None:
        return sums
    return torch.cat([sums, torch.stack([found.metrics.sum(1), found.metrics.square().sum(1)], 1).reshape(-1)])
