"""What a run writes down after each epoch, a line of metrics.jsonl.

`epoch` counts from 1. `seconds` is the training time so far, probes and evaluation left out; `num_gradients` the
gradient evaluations so far, in units of one gradient over the whole batch. Losses and accuracies are of the weights
after the epoch (`ema_`: of their average), in eval mode, over whole parts, with the training labels as trained. null
stands for what was not measured or is not finite: `val_` without a validation part, `ema_` without an average.
"""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.checkpoint import Metrics
from train.data import Part
from train.distributed import Workers

# of an evaluation pass; the loss is summed, so they do not enter the result but in rounding
_MOST_EXAMPLES, _MOST_NUMBERS = 1024, 2**24

METRIC_NAMES = (
    "epoch",
    "step",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "ema_val_loss",
    "ema_val_accuracy",
    "learning_rate",
    "seconds",
    "num_gradients",
    "cosine_b",
    "cosine_a",
    "change",
    "cosine_b_standard_error",
    "cosine_a_standard_error",
    "change_standard_error",
    "num_probes",
)


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy of a batch: what every run reports, and minimises but for label smoothing."""
    inputs, targets = batch
    return functional.cross_entropy(model(inputs), targets)


def evaluate(model: nn.Module, part: Part, workers: Workers | None = None) -> tuple[float, float]:
    """Mean loss and accuracy over a part, in eval mode; the mode is restored. `workers` share the work."""
    inputs, targets = part
    workers = workers or Workers()
    mine = workers.share(len(targets))
    chunk = max(1, min(_MOST_EXAMPLES, _MOST_NUMBERS // inputs.shape[1:].numel()))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=targets.device)
    num_correct = torch.zeros((), dtype=torch.int64, device=targets.device)
    with torch.inference_mode():
        for start in mine[::chunk]:
            rows = slice(start, min(start + chunk, mine.stop))
            x, y = inputs[rows], targets[rows]
            logits = model(x)
            loss += functional.cross_entropy(logits, y, reduction="none").double().sum()
            num_correct += (logits.argmax(dim=1) == y).sum()
    for module, mode in modes:
        module.training = mode
    return float(workers.summed(loss)) / len(targets), int(workers.summed(num_correct)) / len(targets)


def probe_statistics(probes: list[tuple[float, float]]) -> Metrics:
    """Mean and standard error of the congruence before and after the probed steps of an epoch, and of its change.

    Example:
        >>> found = probe_statistics([(0.5, 0.75), (0.25, 0.75)])
        >>> found["cosine_b"], found["change"], found["change_standard_error"], found["num_probes"]
        (0.375, 0.375, 0.125, 2)
    """
    samples = {
        "cosine_b": [before for before, _ in probes],
        "cosine_a": [after for _, after in probes],
        "change": [after - before for before, after in probes],
    }
    means = {name: finite_or_none(statistics.fmean(values)) if values else None for name, values in samples.items()}
    errors = {f"{name}_standard_error": _standard_error(values) for name, values in samples.items()}
    return {**means, **errors, "num_probes": len(probes)}


def finite_or_none(value: float) -> float | None:
    """`value`, or None where JSON would have no number for it."""
    return value if math.isfinite(value) else None


def _standard_error(values: list[float]) -> float | None:
    if len(values) < 2 or not all(math.isfinite(value) for value in values):
        return None
    return statistics.stdev(values) / math.sqrt(len(values))
