"""Gradient congruence: how far the gradient of one half of a batch agrees with the perturbed gradient of the other.

    c(theta) = cos(g_Bt(theta), g_Bv(theta + radius u_Bv(theta)))

Measured before and after one step on the same batch, the difference says whether that step brought the two together.

Legend: as in train.methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from train.batches import split
from train.methods import frozen_statistics
from train.streams import seeded

B = TypeVar("B")


def congruence(
    model: nn.Module,
    loss: Callable[[nn.Module, B], Tensor],
    batch: B,
    *,
    split_ratio: float = 0.7,
    radius: float = 0.05,
    seed: int = 0,
) -> float:
    """Gradient congruence c(theta) on the two parts of `batch`, in train mode, over all trainable parameters.

    BatchNorm uses batch statistics and keeps its running ones. Dropout draws by `seed`, the same in every pass. NaN
    where a gradient is zero and has no direction. Parameters, gradients, buffers, modes and generators are left as they
    were. Cost: 1 + (1 - split_ratio) passes over the batch. The quantity follows figure 1 of arXiv:2406.07107; that
    theta_v is recomputed on each call, and that the mode is train mode, are our readings of its caption.

    Raises:
        ValueError: If the batch is too small to split.
    """
    first, second = split(batch, split_ratio, model=model)
    params: list[Tensor] = [param for param in model.parameters() if param.requires_grad]
    with _train_mode(model), frozen_statistics(model), _kept(params) as theta:
        gradient_t = _gradient(model, loss, first, params, seed)
        gradient_v = _gradient(model, loss, second, params, seed)
        norm = _dot(gradient_v, gradient_v).sqrt()
        with torch.no_grad():
            for param, start, gradient in zip(params, theta, gradient_v, strict=True):
                param.copy_(start + gradient * (radius / norm).to(gradient.dtype))
        moved = _gradient(model, loss, second, params, seed)
    return float(_dot(gradient_t, moved) / (_dot(gradient_t, gradient_t) * _dot(moved, moved)).sqrt())


def _gradient(
    model: nn.Module, loss: Callable[[nn.Module, B], Tensor], batch: B, params: list[Tensor], seed: int
) -> list[Tensor]:
    device = params[0].device
    with seeded(seed, device), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        gradient = torch.autograd.grad(loss(model, batch), params, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params, gradient, strict=True)]


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)]).sum()


@contextmanager
def _kept(params: list[Tensor]) -> Iterator[list[Tensor]]:
    theta = [param.detach().clone() for param in params]
    try:
        yield theta
    finally:
        with torch.no_grad():
            torch._foreach_copy_(params, theta)


@contextmanager
def _train_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
