"""How much of a perturbation of the weights is left when autocast rounds them.

    e = radius g / ||g||,   Q(theta + e) - Q(theta)  against  e,   Q the rounding to the autocast dtype

bfloat16 has 8 bits of precision: a weight of size w moves in steps of w / 128 or so, and a perturbation of radius 0.05
over millions of weights is far smaller than that for each of them.

Legend: theta the parameters with two dimensions or more, which autocast rounds (scales of norm layers stay in float32);
g the gradient of the mean loss, the radius being that of the whole perturbation, over all parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from train.steps import frozen_statistics

B = TypeVar("B")
SMALLEST_COSINE = 0.8  # below it a warning: fp16 keeps 0.9 or more on the networks of the paper, bf16 0.4 to 0.7


class RoundedPerturbationWarning(UserWarning):
    """Rounding changes the perturbation more than a little."""


@dataclass(frozen=True)
class Survival:
    """Length of the rounded perturbation by that of the true one, and the cosine of the two; 1 and 1 is all of it.

    Both are NaN where there is no perturbation; the cosine is, where nothing of it is left.
    """

    norm_ratio: float
    cosine: float


def survival(theta: Sequence[Tensor], perturbation: Sequence[Tensor], dtype: torch.dtype) -> Survival:
    """What is left of `perturbation` at `theta` when both ends are rounded to `dtype`.

    Example:
        >>> survival([torch.ones(2)], [torch.tensor([1e-2, 1e-4])], torch.bfloat16).norm_ratio  # steps of 1/128 at 1
        0.7812...
    """
    left = true = product = 0.0
    for start, e in zip(theta, perturbation, strict=True):
        exact = (start + e).double() - start.double()  # as the float32 weights have it
        rounded = (start + e).to(dtype).double() - start.to(dtype).double()
        left += float(rounded.square().sum())
        true += float(exact.square().sum())
        product += float((rounded * exact).sum())
    if true == 0:
        return Survival(float("nan"), float("nan"))
    return Survival((left / true) ** 0.5, product / (left * true) ** 0.5 if left else float("nan"))


def surviving_perturbation(
    model: nn.Module, loss: Callable[[nn.Module, B], Tensor], batch: B, *, radius: float, dtype: torch.dtype
) -> Survival:
    """What rounding to `dtype` leaves of SAM's perturbation of `batch`. Cost: one pass. Draws from dropout's generator.

    Parameters, their gradients and running statistics are left as they were.
    """
    params = [param for param in model.parameters() if param.requires_grad]
    with frozen_statistics(model), torch.enable_grad():
        gradient = torch.autograd.grad(loss(model, batch), params, allow_unused=True)
    used = [(p.detach(), g) for p, g in zip(params, gradient, strict=True) if g is not None]
    norm = torch.linalg.vector_norm(torch.stack([g.double().norm() for _, g in used]))
    rounded = [(p, g * (radius / norm).to(g.dtype)) for p, g in used if p.dim() >= 2]
    return survival([p for p, _ in rounded], [e for _, e in rounded], dtype)
