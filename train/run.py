"""All that a run has while it goes on, made from its settings."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from train.batches import part_sizes
from train.checkpoint import Metrics, State, describe_data
from train.config import TrainConfig
from train.data import Part, Splits, load
from train.distributed import Sync, Workers
from train.ema import average_of
from train.methods import ASAM, SAM, AgnosticSAM, Descent, Method, SubsetSAM
from train.models import build
from train.shards import check_pieces
from train.weights import load_weights_


@dataclass(kw_only=True)
class Run:
    """What changes while a run goes on."""

    config: TrainConfig
    folder: Path
    device: torch.device
    splits: Splits  # on the device
    data: State
    model: nn.Module
    optimizer: torch.optim.Optimizer
    method: Method
    scaler: GradScaler | None
    workers: Workers
    average: nn.Module | None  # of the weights, by `config.ema`
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    probes: list[tuple[float, float]] = field(default_factory=list)  # of this epoch, until it is whole
    metrics: Metrics = field(default_factory=dict)


class SettingsError(ValueError):
    """Settings that the data, the network or the machine refuse."""


def gradients_per_step(config: TrainConfig) -> float:
    """Gradient evaluations of one step, in units of one gradient over the whole batch; probes are not counted.

    Example:
        >>> gradients_per_step(TrainConfig(method="sam")), gradients_per_step(TrainConfig(method="agnostic-sam"))
        (2.0, 2.0)
    """
    share = part_sizes(config.batch_size, config.split_ratio)[0] / config.batch_size
    return {"sgd": 1.0, "sam-subset": 2 * share, "agnostic-sam-simple": 1 + share}.get(config.method, 2.0)


def prepare(config: TrainConfig, folder: Path, device: torch.device, workers: Workers, *, pretrained: bool) -> Run:
    """A run before its first step; `pretrained`: with the weights of the file that the settings name.

    Raises:
        ValueError: If the data, the network and the settings do not suit each other.
    """
    return prepare_on(load(config), config, folder, device, workers, pretrained=pretrained)


def prepare_on(
    splits: Splits, config: TrainConfig, folder: Path, device: torch.device, workers: Workers, *, pretrained: bool
) -> Run:
    """As `prepare`, on data that is given."""
    check_batch(config, len(splits.train[1]), workers.size)
    data = describe_data(config, splits)
    in_channels = splits.train[0].shape[1]
    model = build(config.model, in_channels=in_channels, num_classes=splits.num_classes, seed=config.seed)
    _check_images(config.model, model, splits.train[0][:2])
    if config.weights and pretrained:
        load_weights_(model, config.weights)
    model.to(device)
    if workers.size > 1 and device.type == "cuda" and config.sam_sync == "global" and not config.m:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # none for CPUs
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
        model.register_forward_pre_hook(_with_channels_last)  # where images enter, so that every pass has them so
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )
    return Run(
        config=config,
        folder=folder,
        device=device,
        splits=_moved(splits, device),
        data=data,
        model=model,
        optimizer=optimizer,
        method=_method(config, model, optimizer, workers),
        scaler=GradScaler(device.type) if config.precision == "fp16" else None,
        workers=workers,
        average=average_of(model) if config.ema else None,
    )


@contextlib.contextmanager
def as_settings_error() -> Iterator[None]:
    """What the parts of a run refuse as a value is refused as a setting."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:  # a damaged file, say
            raise
        raise SettingsError(str(error)) from error


def device_of(name: str) -> torch.device:
    """The device that a setting names.

    Raises:
        SettingsError: If it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device is 'cuda', but torch sees no CUDA device here: use 'cpu' or 'auto'")
    return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def check_batch(config: TrainConfig, num_examples: int, num_processes: int = 1) -> None:
    """Refuse a batch that is larger than the data, or too small for its parts.

    Raises:
        ValueError: If it is.
    """
    if config.batch_size > num_examples:
        raise ValueError(
            f"batch_size is {config.batch_size}, but there are only {num_examples} training examples: use a smaller one"
        )
    # every method is probed, and the probe splits; 2, since all our models have BatchNorm
    part_sizes(config.batch_size, config.split_ratio, smallest=2)
    check_pieces(config, num_processes)


def _check_images(name: str, model: nn.Module, images: torch.Tensor) -> None:
    """A first look in eval mode, which draws nothing and moves no statistics."""
    model.eval()
    try:
        with torch.no_grad():
            model(images)
    except (RuntimeError, ValueError, AssertionError) as error:  # what the layers of the libraries raise
        size = "x".join(str(length) for length in images.shape[1:])
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the network {name} does not take images of {size}: {reason}") from error
    model.train()


def _with_channels_last(_model: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (inputs[0].contiguous(memory_format=torch.channels_last),)


def _method(config: TrainConfig, model: nn.Module, optimizer: torch.optim.Optimizer, workers: Workers) -> Method:
    sync: Sync | None = None
    if workers.size > 1:
        sync = "local" if config.m or config.sam_sync == "local" else "global"
    if config.method == "sgd":
        return Descent(model, optimizer, sync=sync)
    rho, ratio, m, same_rng = config.rho, config.split_ratio, config.m or None, config.same_rng
    if config.method == "sam":
        return SAM(model, optimizer, rho=rho, m=m, same_rng=same_rng, sync=sync)
    if config.method == "sam-subset":
        return SubsetSAM(model, optimizer, rho=rho, split_ratio=ratio, m=m, same_rng=same_rng, sync=sync)
    if config.method == "asam":
        return ASAM(model, optimizer, rho=rho, eta=config.eta, m=m, same_rng=same_rng, sync=sync)
    return AgnosticSAM(
        model,
        optimizer,
        rho1=config.rho1,
        rho2=config.rho2,
        split_ratio=ratio,
        variant="simple" if config.method == "agnostic-sam-simple" else "full",
        m=m,
        same_rng=same_rng,
        sync=sync,
    )


def _moved(splits: Splits, device: torch.device) -> Splits:
    def moved(part: Part) -> Part:
        return part[0].to(device), part[1].to(device)

    return dataclasses.replace(
        splits, train=moved(splits.train), validation=moved(splits.validation), test=moved(splits.test)
    )
