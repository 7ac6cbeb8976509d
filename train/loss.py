"""The loss that a run minimises, in the precision of its passes."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from train.config import TrainConfig
from train.precision import SMALLEST_COSINE, RoundedPerturbationWarning, surviving_perturbation

Forward = Callable[[nn.Module, Tensor], Tensor]

_Batch = tuple[Tensor, Tensor]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def plain(model: nn.Module, inputs: Tensor) -> Tensor:
    """The network's outputs, as it computes them by itself."""
    outputs: Tensor = model(inputs)
    return outputs


def training_loss(
    config: TrainConfig, device: torch.device, forward: Forward = plain
) -> Callable[[nn.Module, _Batch], Tensor]:
    """Mean cross-entropy of a batch, with the label smoothing and precision of the settings."""
    if config.precision == "fp32":
        return _loss_in_float32(config, forward)

    def autocast_loss(model: nn.Module, batch: _Batch) -> Tensor:
        with torch.autocast(device.type, dtype=_AUTOCAST[config.precision]):
            logits = forward(model, batch[0])
        return nn.functional.cross_entropy(logits.float(), batch[1], label_smoothing=config.label_smoothing)

    return autocast_loss


def _loss_in_float32(config: TrainConfig, forward: Forward = plain) -> Callable[[nn.Module, _Batch], Tensor]:
    def loss(model: nn.Module, batch: _Batch) -> Tensor:
        logits = forward(model, batch[0])
        return nn.functional.cross_entropy(logits, batch[1], label_smoothing=config.label_smoothing)

    return loss


def warn_of_rounding(config: TrainConfig, model: nn.Module, batch: _Batch) -> None:
    """Warn if the precision of the passes rounds away much of the perturbation of `batch`."""
    radius = config.rho1 if config.method.startswith("agnostic") else config.rho
    if config.precision == "fp32" or config.method == "sgd" or radius == 0:
        return
    loss, dtype = _loss_in_float32(config), _AUTOCAST[config.precision]
    found = surviving_perturbation(model, loss, batch, radius=radius, dtype=dtype)
    if not found.cosine >= SMALLEST_COSINE:
        warnings.warn(
            f"{config.precision} rounds away much of the perturbation of radius {radius:g}: what is left has "
            f"{found.norm_ratio:.2f} times its length and a cosine of {found.cosine:.2f} with it. "
            f"Use precision fp32{'' if config.precision == 'fp16' else ' or fp16'}, or a larger radius",
            RoundedPerturbationWarning,
            stacklevel=2,
        )
