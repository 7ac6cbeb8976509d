"""The forward pass of training steps, compiled, and held against the plain one before a run depends on it.

Only the passes of the steps are compiled: the congruence probe and the evaluation meet other shapes and modes. Each
shape of a batch gets code of its own, and random numbers are drawn as the plain pass draws them. Perturbed passes hold
BatchNorm's statistics still by `track_running_stats` (train/steps.py); the compiled code guards on that flag, which
gives it a version for either value. The check goes through both.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from train.config import TrainConfig
from train.loss import Forward, plain, training_loss
from train.steps import frozen_statistics
from train.streams import derived_seed, seeded

# Relative, in 2-norms. Orders of summation differ, and a ReLU that rounding flips moves a gradient by more than that:
# a plain pass of resnet8 in channels_last was seen 1.6e-3 from float64, the compiled one 5e-6.
TOLERANCE = {"fp32": 1e-2, "bf16": 5e-2, "fp16": 5e-2}

_Batch = tuple[Tensor, Tensor]


class NotCompiledWarning(UserWarning):
    """The network runs uncompiled, though the settings ask for more."""


def forward_pass(
    config: TrainConfig,
    model: nn.Module,
    first_batch: Callable[[], _Batch],
    *,
    anywhere: Callable[[bool], bool] = bool,
) -> Forward:
    """The forward pass that the steps of a run take: compiled if the settings say so, and it can be had.

    Loss, gradient and change of the running statistics on the first batch are compared with those of the plain pass.
    Where compilation fails, or they differ by more than `TOLERANCE`, the pass is plain and a warning says why; so it is
    in all processes where it is in one (`anywhere`). The model and the generators are left as they were.
    """
    if not config.compile:
        return plain
    torch.compiler.reset()  # the code of an earlier network counts towards the limit of recompilations
    compiled: Forward = torch.compile(plain, dynamic=False, options={"fallback_random": True})
    batch = first_batch()
    try:
        problem = _difference(config, model, batch, compiled)
    except Exception as error:  # whatever a missing or broken compiler can make it raise
        problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if not anywhere(bool(problem)):
        return compiled
    problem = problem or "another process cannot compile it"
    warnings.warn(f"the network runs uncompiled, only slower: {problem}", NotCompiledWarning, stacklevel=2)
    return plain


def _difference(config: TrainConfig, model: nn.Module, batch: _Batch, compiled: Forward) -> str:
    for still in (False, True):
        expected, found = (_pass(config, model, batch, forward, still=still) for forward in (plain, compiled))
        for name, value in expected.items():
            error, size = float((found[name] - value).norm()), float(value.norm())
            if not error <= TOLERANCE[config.precision] * size:
                return f"compiled, its {name} on the first batch differs by {error:.1e} from {size:.1e}"
    return ""


def _pass(config: TrainConfig, model: nn.Module, batch: _Batch, forward: Forward, *, still: bool) -> dict[str, Tensor]:
    """Loss, gradient, and by how much each buffer moved; they are put back."""
    device = batch[1].device
    params = [param for param in model.parameters() if param.requires_grad]
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with (
            seeded(derived_seed(config.seed, "compiled"), device),
            frozen_statistics(model) if still else contextlib.nullcontext(),
        ):
            loss = training_loss(config, device, forward)(model, batch)
            gradient = torch.autograd.grad(loss, params, allow_unused=True)
        moved = {name: (buffer - before[name]).double() for name, buffer in model.named_buffers()}
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
    whole = torch.cat([g.flatten().double() for g in gradient if g is not None])
    return {"loss": loss.detach().double(), "gradient": whole, **moved}
