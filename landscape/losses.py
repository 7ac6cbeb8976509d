"""A loss as sums: for each example the sum of its losses, and of the denominators its mean divides by.

The mean over all data is (sum of losses) / (sum of denominators), so that a short last batch, ignored targets
and class weights count as they do in one big batch. Denominators are those of torch's own reduction="mean":
examples, valid targets, class weights of the targets, or elements.

Legend: B examples of a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

Reduction = Literal["mean", "sum"]
LossFunction = Callable[[Tensor, Tensor], Tensor]

_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
_FUNCTIONS: dict[LossFunction, type[nn.Module]] = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
    F.mse_loss: nn.MSELoss,
    F.l1_loss: nn.L1Loss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
}


@dataclass(frozen=True)
class Terms:
    """What one batch contributes to the mean.

    `loss` and `denominator` are (B,), or (1,) with `per_example` False where only the batch's sum is known.
    `correct` of `targets` class predictions were right; both None where the task has no classes. `metrics` (M, B) are
    the caller's own, in float64.
    """

    loss: Tensor
    denominator: Tensor
    per_example: bool
    num_examples: int
    correct: Tensor | None = None
    targets: Tensor | None = None
    metrics: Tensor | None = None


def known(loss: LossFunction) -> nn.Module | None:
    """`loss` as one of torch's losses whose reduction we know, or None."""
    if loss in _FUNCTIONS:
        return _FUNCTIONS[loss]()
    return loss if type(loss) in _CLASSES + _ELEMENTWISE else None  # type: ignore[return-value]


def unreduced(loss: LossFunction) -> LossFunction:
    """`loss` for `terms`, which then need not make a copy of it for each batch; an unknown one as it is."""
    module = known(loss)
    return loss if module is None else with_reduction(module, "none")


def terms(loss: LossFunction, output: Tensor, target: Tensor, *, reduction: Reduction | None) -> Terms:
    """Sums and denominators of one batch, differentiable in `output`."""
    module = known(loss)
    if isinstance(module, _CLASSES):
        return _class_terms(module, output, target)
    if module is not None:
        return _element_terms(module, output, target)
    num_examples = len(target)
    value = loss(output, target)
    total = value * num_examples if reduction == "mean" else value
    return Terms(total.reshape(1), total.new_full((1,), num_examples), per_example=False, num_examples=num_examples)


def check_stated_reduction(loss: LossFunction | None, reduction: Reduction | None) -> None:
    """Refuse a reduction that is no choice, or that contradicts a loss which knows its own.

    Raises:
        ValueError: If `reduction` is neither "mean" nor "sum", or not that of one of torch's losses.
    """
    if reduction is None:
        return
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction must be one of {get_args(Reduction)}, got {reduction!r}")
    module = known(loss) if loss is not None else None
    if module is not None and module.reduction != reduction:
        raise ValueError(f"reduction={reduction!r} contradicts {module}, which has reduction={module.reduction!r}")


def check_reduction(loss: LossFunction, output: Tensor, target: Tensor, reduction: Reduction | None) -> None:
    """Hold a stated reduction against the loss itself, on a doubled batch and on the two parts of a batch.

    Doubling leaves a mean as it is and doubles a sum. The parts must add up, weighted by their examples for a mean: a
    mean over something else (valid tokens, a mask) does not, and needs `Objective.from_sums`.

    Raises:
        ValueError: If the reduction of an unknown loss is not given, or not what was stated.
    """
    if known(loss) is not None:
        return
    if reduction not in get_args(Reduction):
        raise ValueError(
            f"reduction of {_name(loss)} is unknown: say reduction='mean' or 'sum' (got {reduction!r}), "
            "or use Objective.from_sums"
        )
    once = loss(output, target)
    if once.numel() != 1:
        raise ValueError(f"{_name(loss)} returned shape {tuple(once.shape)}, expected one number: reduce it first")
    twice = loss(torch.cat([output, output]), torch.cat([target, target]))
    expected = once if reduction == "mean" else 2 * once
    if not torch.allclose(twice, expected, rtol=1e-3, equal_nan=True):
        raise ValueError(
            f"{_name(loss)} is not a {reduction}: a batch gives {once.item():.6g}, the same batch twice "
            f"{twice.item():.6g}, expected {expected.item():.6g}. Say the other reduction, or use Objective.from_sums"
        )
    count = len(target)
    if count < 2:
        return
    cut = (count + 2) // 3
    first, second = loss(output[:cut], target[:cut]), loss(output[cut:], target[cut:])
    parts = (cut * first + (count - cut) * second) / count if reduction == "mean" else first + second
    if not torch.allclose(parts, once, rtol=1e-3, equal_nan=True):
        raise ValueError(
            f"{_name(loss)} is not a {reduction} over examples: two parts of a batch give {parts.item():.6g} together, "
            f"the batch {once.item():.6g}. Use Objective.from_sums, which says what the mean divides by"
        )


def _class_terms(loss: nn.CrossEntropyLoss | nn.NLLLoss, output: Tensor, target: Tensor) -> Terms:
    losses = with_reduction(loss, "none")(output, target)
    if target.is_floating_point():  # class probabilities: torch divides by the number of targets
        return _grouped(losses, torch.ones_like(losses))
    valid = target.ne(loss.ignore_index)
    weight = loss.weight if isinstance(loss.weight, Tensor) else output.new_ones(output.shape[1])
    denominator = weight[target.where(valid, 0)] * valid
    correct = output.argmax(1).eq(target) & valid
    grouped = _grouped(losses, denominator)
    return Terms(grouped.loss, grouped.denominator, True, grouped.num_examples, correct.sum(), valid.sum())


def _element_terms(loss: nn.Module, output: Tensor, target: Tensor) -> Terms:
    losses = with_reduction(loss, "none")(output, target)
    return _grouped(losses, torch.ones_like(losses))


def _grouped(losses: Tensor, denominators: Tensor) -> Terms:
    num_examples = len(losses)
    if not num_examples:
        raise ValueError("a batch holds no examples: leave empty batches out")
    shape = (num_examples, -1)
    return Terms(losses.reshape(shape).sum(1), denominators.detach().reshape(shape).sum(1), True, num_examples)


def with_reduction(loss: nn.Module, reduction: Literal["none", "sum"]) -> nn.Module:
    """One of torch's losses, with another reduction."""
    if loss.reduction == reduction:
        return loss
    other = copy.copy(loss)
    other.__dict__ = {**loss.__dict__, "reduction": reduction}
    return other


def _name(loss: LossFunction) -> str:
    return getattr(loss, "__name__", type(loss).__name__)
